#include "quant/hard_block.h"

#include <algorithm>
#include <span>
#include <string>

#include "core/bitpack.h"
#include "core/json.h"
#include "core/safetensors.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr const char* kMetadataKey = "block";  // of the file's metadata: what is no tensor, as JSON
constexpr std::array<const char*, kLinearRoles> kRoleNames = {"q", "k", "v", "o", "gate", "up", "down"};

struct FileTensor {
  TensorSpec spec;
  std::vector<std::byte> bytes;
};

FileTensor narrowed(Context& ctx, const std::string& name, const Tensor& x, DType stored) {
  for (const DType dtype : {stored, DType::f32})
    if (auto bytes = exact_bytes(ctx, x, dtype)) return {{name, dtype, x.shape()}, std::move(*bytes)};
  return {{name, x.dtype(), x.shape()}, *exact_bytes(ctx, x, x.dtype())};
}

FileTensor packed_codes(Context& ctx, const std::string& name, const HardWeight& hard) {
  const std::int64_t out = hard.codes.size(0), in = hard.codes.size(1), words = word_count(in, hard.spec.bits);
  FileTensor tensor{{name, DType::i32, {out, words}}, {}};
  std::vector<std::uint32_t> packed(std::size_t(out * words));
  pack_rows(to_host<std::uint8_t>(ctx, hard.codes), out, in, hard.spec.bits, packed);
  const auto bytes = std::as_bytes(std::span(packed));
  tensor.bytes.assign(bytes.begin(), bytes.end());
  return tensor;
}

std::vector<FileTensor> file_tensors(Context& ctx, const HardBlock& block, DType stored) {
  std::vector<FileTensor> tensors;
  const auto add = [&](const std::string& name, const Var& x) {
    if (x.value) tensors.push_back(narrowed(ctx, name, x.value, stored));
  };
  for (std::size_t i = 0; i < kLinearRoles; ++i) {
    const std::string role = kRoleNames[i];
    if (const auto& hard = block.hard[i]) {
      tensors.push_back(packed_codes(ctx, role + ".codes", *hard));
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

json to_json(const HardBlock& block, DType stored) {
  json linears = json::array();
  for (const LinearSpec& spec : block.spec)
    linears.push_back({{"bits", spec.weight.bits},
                       {"group_size", spec.weight.group_size},
                       {"symmetric", spec.weight.symmetry == Symmetry::symmetric},
                       {"activation", to_json(spec.activation)}});
  return {{"stored", name(stored)},
          {"linears", linears},
          {"activation_factor", block.activation_factor},
          {"kv_cache", to_json(block.kv_cache)}};
}

DType float_dtype(const std::string& text) {
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32, DType::f64})
    if (text == name(dtype)) return dtype;
  fail(ErrorKind::bad_input, "dtype: expected f16, bf16, f32 or f64, found ", quoted_text(text));
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
  std::vector<std::uint32_t> packed(std::size_t(packed_shape.count()));
  std::ranges::copy(file.bytes(role + ".codes"), std::as_writable_bytes(std::span(packed)).begin());
  std::vector<std::uint8_t> codes(std::size_t(out * in));
  unpack_rows(packed, out, in, spec.bits, codes);
  const Shape grid = spec.grid_shape(shape);
  return {spec, from_host_bytes(ctx, shape, DType::u8, std::as_bytes(std::span(codes))),
          read_float(ctx, file, role + ".scale", grid, statistics_dtype(compute)),
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
  const auto bytes_of = [&](const Tensor& tensor) {
    std::vector<std::byte> bytes(std::size_t(tensor.bytes()));
    to_host_bytes(ctx, bytes, contiguous(ctx, tensor));
    return bytes;
  };
  if (x.dtype() == dtype) return bytes_of(x);
  const Tensor converted = convert(ctx, x, dtype);
  if (bytes_of(convert(ctx, converted, x.dtype())) != bytes_of(x)) return std::nullopt;
  return bytes_of(converted);
}

void write_hard_block(Context& ctx, const std::filesystem::path& path, const HardBlock& block, DType stored) {
  for (std::size_t i = 0; i < kLinearRoles; ++i) {
    if (!block.weights.linears[i].weight.value) continue;
    const WeightSpec& spec = block.spec[i].weight;
    const auto& hard = block.hard[i];
    require(hard ? hard->spec.bits == spec.bits && hard->spec.group_size == spec.group_size : !spec.quantised(),
            "store: the integers of ", kRoleNames[i], " do not belong to its spec of ", spec.bits, " bits");
  }
  std::vector<FileTensor> tensors = file_tensors(ctx, block, stored);
  std::vector<TensorSpec> specs;
  for (const FileTensor& tensor : tensors) specs.push_back(tensor.spec);
  SafetensorsWriter writer(path, std::move(specs), {{kMetadataKey, to_json(block, stored).dump()}});
  for (const FileTensor& tensor : tensors) writer.write(tensor.spec.name, tensor.bytes);
  writer.finish();
}

HardBlock read_hard_block(Context& ctx, const std::filesystem::path& path, const ModelConfig& config, DType compute) {
  const SafetensorsFile file(path);
  const auto metadata = file.metadata().find(kMetadataKey);
  require_input(metadata != file.metadata().end(), path.string(), ": expected a finished block, found another file");
  const json record = parse_json_text(metadata->second, path.string());
  const DType stored = float_dtype(record.at("stored").get<std::string>());

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
      block.weights[role].weight = dequantise(ctx, *block.hard[i], stored, compute);
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
