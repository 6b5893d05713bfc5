#include "quant/hard_block.h"

#include <algorithm>
#include <span>
#include <string>

#include "core/bitpack.h"
#include "core/json.h"
#include "core/kernels.h"
#include "core/safetensors.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr const char* kMetadataKey = "block";  // of the file's metadata: what is no tensor, as JSON
constexpr std::array<const char*, kLinearRoles> kRoleNames = {"q", "k", "v", "o", "gate", "up", "down"};

struct FileTensor {
  std::string name;
  Tensor x;  // in the dtype of the file
};

std::vector<std::byte> bytes_of(Context& ctx, const Tensor& x) {
  std::vector<std::byte> bytes(std::size_t(x.bytes()));
  to_host_bytes(ctx, bytes, x);
  return bytes;
}

// x in `dtype`; nothing when a value changes on the way there.
std::optional<Tensor> exact(Context& ctx, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor converted = convert(ctx, x, dtype);
  if (bytes_of(ctx, convert(ctx, converted, x.dtype())) != bytes_of(ctx, x)) return std::nullopt;
  return converted;
}

Tensor narrowed(Context& ctx, const Tensor& x, DType stored) {
  for (const DType dtype : {stored, DType::f32})
    if (auto y = exact(ctx, x, dtype)) return *std::move(y);
  return x;
}

std::vector<FileTensor> file_tensors(Context& ctx, const HardBlock& block, DType stored) {
  std::vector<FileTensor> tensors;
  const auto add = [&](const std::string& name, const Var& x) {
    if (x.value) tensors.push_back({name, narrowed(ctx, x.value, stored)});
  };
  for (std::size_t i = 0; i < kLinearRoles; ++i) {
    const std::string role = kRoleNames[i];
    if (const auto& hard = block.hard[i]) {
      tensors.push_back({role + ".codes", packed(ctx, *hard)});
      add(role + ".scale", hard->scale);
      add(role + ".zero", hard->zero);
    } else {
      add(role + ".weight", block.weights.linears[i].weight);
    }
    add(role + ".bias", block.weights.linears[i].bias);
  }
  add("attention_norm.weight", block.weights.attention_norm.weight);
  add("attention_norm.bias", block.weights.attention_norm.bias);
  add("mlp_norm.weight", block.weights.mlp_norm.weight);
  add("mlp_norm.bias", block.weights.mlp_norm.bias);
  return tensors;
}

json to_json(const ActivationSpec& spec) {
  return {{"bits", spec.bits}, {"symmetric", spec.symmetry == Symmetry::symmetric}};
}

Symmetry symmetry_of(const json& spec) {
  return spec.at("symmetric").get<bool>() ? Symmetry::symmetric : Symmetry::asymmetric;
}

ActivationSpec activation_spec(const json& spec) {
  return {spec.at("bits").get<int>(), symmetry_of(spec)};
}

json to_json(const HardBlock& block) {
  json linears = json::array();
  for (const LinearSpec& spec : block.spec)
    linears.push_back({{"bits", spec.weight.bits},
                       {"group_size", spec.weight.group_size},
                       {"symmetric", spec.weight.symmetry == Symmetry::symmetric},
                       {"activation", to_json(spec.activation)}});
  return {{"linears", linears}, {"activation_factor", block.activation_factor}, {"kv_cache", to_json(block.kv_cache)}};
}

Tensor read_float(Context& ctx, const SafetensorsFile& file, const std::string& name, const Shape& shape,
                  DType compute) {
  const TensorInfo& info = file.info(name);
  require_input(info.shape == shape && is_float(info.dtype), file.path().string(), ": ", name,
                ": expected floats of shape ", shape, ", found ", info.dtype, " ", info.shape);
  const Tensor x = from_host_bytes(ctx, shape, info.dtype, file.bytes(name));
  return info.dtype == compute ? x : convert(ctx, x, compute);
}

HardWeight read_hard_weight(Context& ctx, const SafetensorsFile& file, const std::string& role, const Shape& shape,
                            const WeightSpec& spec, DType compute) {
  const std::int64_t out = shape[0], in = shape[1];
  const Shape packed_shape = {out, word_count(in, spec.bits)};
  const TensorInfo& info = file.info(role + ".codes");
  require_input(info.shape == packed_shape && info.dtype == DType::i32, file.path().string(), ": ", role,
                ".codes: expected i32 ", packed_shape, ", found ", info.dtype, " ", info.shape);
  const Tensor codes(ctx, shape, DType::u8);
  ctx.kernels->unpack_codes(ctx, codes, from_host_bytes(ctx, packed_shape, DType::i32, file.bytes(role + ".codes")),
                            spec.bits);
  const Shape grid = spec.grid_shape(shape);
  return {spec, codes, read_float(ctx, file, role + ".scale", grid, statistics_dtype(compute)),
          read_float(ctx, file, role + ".zero", grid, statistics_dtype(compute))};
}

WeightSpec weight_spec(const json& linear, std::int64_t in, const std::string& where) {
  const WeightSpec spec{linear.at("bits").get<int>(), linear.at("group_size").get<std::int64_t>(), symmetry_of(linear)};
  constexpr std::array kBits = {2, 3, 4, 5, 6, 8, 16};
  require_input(std::ranges::find(kBits, spec.bits) != kBits.end(), where, ": found weights of ", spec.bits, " bits");
  require_input(spec.group_size == -1 || (spec.group_size > 0 && in % spec.group_size == 0), where,
                ": a group size that divides ", in, " was expected, found ", spec.group_size);
  return spec;
}

}  // namespace

std::optional<std::vector<std::byte>> exact_bytes(Context& ctx, const Tensor& x, DType dtype) {
  const auto y = exact(ctx, x, dtype);
  if (!y) return std::nullopt;
  return bytes_of(ctx, *y);
}

Tensor packed(Context& ctx, const HardWeight& hard) {
  Tensor words(ctx, {hard.codes.size(0), word_count(hard.codes.size(1), hard.spec.bits)}, DType::i32);
  ctx.kernels->pack_codes(ctx, words, hard.codes, hard.spec.bits);
  return words;
}

void write_hard_block(Context& ctx, const std::filesystem::path& path, const HardBlock& block, DType stored) {
  for (std::size_t i = 0; i < kLinearRoles; ++i) {
    const WeightSpec& spec = block.spec[i].weight;
    const auto& hard = block.hard[i];
    if (!hard && !block.weights.linears[i].weight.value) continue;  // a layer that this family has not
    require(hard ? hard->spec.bits == spec.bits && hard->spec.group_size == spec.group_size : !spec.quantised(),
            "store: the integers of ", kRoleNames[i], " do not belong to its spec of ", spec.bits, " bits");
  }
  const std::vector<FileTensor> tensors = file_tensors(ctx, block, stored);
  std::vector<TensorSpec> specs;
  for (const auto& [name, x] : tensors) specs.push_back({name, x.dtype(), x.shape()});
  SafetensorsWriter writer(path, std::move(specs), {{kMetadataKey, to_json(block).dump()}});
  for (const auto& [name, x] : tensors) writer.write(name, bytes_of(ctx, x));
  writer.finish();
}

HardBlock read_hard_block(Context& ctx, const std::filesystem::path& path, const ModelConfig& config, DType compute) {
  const SafetensorsFile file(path);
  const auto metadata = file.metadata().find(kMetadataKey);
  require_input(metadata != file.metadata().end(), path.string(), ": expected a finished block, found another file");
  const json record = parse_json_text(metadata->second, path.string());

  HardBlock block;
  record.at("activation_factor").get_to(block.activation_factor);
  block.kv_cache = activation_spec(record.at("kv_cache"));
  const auto bias = [&](const std::string& name, std::int64_t count) {
    return file.contains(name) ? Var(read_float(ctx, file, name, {count}, compute)) : Var();
  };
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    const json& linear = record.at("linears").at(i);
    const Shape shape = weight_shape(config, role);
    const std::string role_name = kRoleNames[i];
    block.spec[i] = {weight_spec(linear, shape[1], path.string()), activation_spec(linear.at("activation"))};
    if (block.spec[i].weight.quantised()) {
      block.hard[i] = read_hard_weight(ctx, file, role_name, shape, block.spec[i].weight, compute);
    } else {
      block.weights[role].weight = read_float(ctx, file, role_name + ".weight", shape, compute);
    }
    block.weights[role].bias = bias(role_name + ".bias", shape[0]);
  }
  const auto norm = [&](const std::string& name) {
    return Norm{read_float(ctx, file, name + ".weight", {config.hidden}, compute), bias(name + ".bias", config.hidden)};
  };
  block.weights.attention_norm = norm("attention_norm");
  block.weights.mlp_norm = norm("mlp_norm");
  return block;
}

}  // namespace cbq
