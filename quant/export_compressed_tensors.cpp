// compressed-tensors, version 0.18.0. Per linear layer with b bits and groups of G, `pack-quantized`:
//   weight_packed      i32 (out, ceil(in*b/32))    codes q, each row a stream of bits
//   weight_scale       stored dtype (out, in/G)    or (out, 1)
//   weight_zero_point  i32 (ceil(out*b/32), in/G)  asymmetric only; each column a stream
//   weight_shape       i64 (2)                     out, in
// Readers see signed codes q - 2^(b-1) and zero points z - 2^(b-1) with that offset added before packing, so the fields
// are our unsigned q and z, and w = (q - z) * scale in the dtype of the scale.
// Layers that integer matrix products can run, 8 bits symmetric by channel with activations of 8 bits, `int-quantized`:
//   weight             i8 (out, in)                q - 2^(b-1)
//   weight_scale       stored dtype (out, 1)
// Source: https://github.com/vllm-project/compressed-tensors, compressors at 0.18.0.
#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>

#include "core/bitpack.h"
#include "quant/export_format.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

using nlohmann::ordered_json;

constexpr const char* kVersion = "0.18.0";  // the first in which fields of 3, 5 and 6 bits may straddle words
constexpr std::string_view kPacked = "pack-quantized";
constexpr std::string_view kIntegers = "int-quantized";

std::string_view format_of(const LinearSpec& spec) {
  const bool is_int8 = spec.weight.bits == 8 && spec.weight.symmetry == Symmetry::symmetric &&
                       spec.weight.group_size < 0 && spec.activation.bits == 8;
  return is_int8 ? kIntegers : kPacked;
}

class CompressedTensors final : public LayerFormat {
 public:
  std::vector<TensorSpec> tensors(const std::string& name, const Shape& shape, const LinearSpec& spec,
                                  DType stored) const override {
    const std::int64_t out = shape[0], in = shape[1];
    const Shape grid = spec.weight.grid_shape(shape);
    const int bits = spec.weight.bits;
    if (format_of(spec) == kIntegers)
      return {{name + ".weight", DType::i8, shape}, {name + ".weight_scale", stored, grid}};
    std::vector<TensorSpec> specs = {{name + ".weight_packed", DType::i32, {out, word_count(in, bits)}},
                                     {name + ".weight_scale", stored, grid},
                                     {name + ".weight_shape", DType::i64, {2}}};
    if (spec.weight.symmetry == Symmetry::asymmetric)
      specs.push_back({name + ".weight_zero_point", DType::i32, {word_count(out, bits), grid[1]}});
    return specs;
  }

  void write(Context& ctx, ShardWriter& shards, const std::string& name, const HardWeight& hard, const LinearSpec& spec,
             DType stored) const override {
    const std::vector<std::uint8_t> zeros = zero_codes(ctx, name, hard);
    const auto scale = exact_bytes(ctx, hard.scale, stored);
    require(scale.has_value(), "export: ", name, ".weight_scale is not exact in ", stored);
    if (format_of(spec) == kIntegers) {
      std::vector<std::uint8_t> codes = to_host<std::uint8_t>(ctx, hard.codes);
      for (std::uint8_t& code : codes) code ^= 0x80;  // q - 128 in two's complement
      shards.write(name + ".weight", std::as_bytes(std::span(codes)));
      shards.write(name + ".weight_scale", *scale);
      return;
    }
    const int bits = hard.spec.bits;
    const std::int64_t out = hard.codes.size(0), in = hard.codes.size(1), groups = hard.scale.size(1);
    const auto rows = to_host<std::int32_t>(ctx, packed(ctx, hard));
    shards.write(name + ".weight_packed", std::as_bytes(std::span(rows)));
    shards.write(name + ".weight_scale", *scale);
    const std::array<std::int64_t, 2> shape = {out, in};
    shards.write(name + ".weight_shape", std::as_bytes(std::span(shape)));
    if (hard.spec.symmetry == Symmetry::symmetric) return;
    std::vector<std::uint32_t> words(std::size_t(word_count(out, bits) * groups));
    pack_columns(zeros, out, groups, bits, words);
    shards.write(name + ".weight_zero_point", std::as_bytes(std::span(words)));
  }

  void describe(ordered_json& config, const ExportedModel& model) const override;
};

// ---- config.json

bool is_equal(const LinearSpec& a, const LinearSpec& b) {
  const auto key = [](const LinearSpec& s) {
    return std::tuple(s.weight.bits, s.weight.group_size, s.weight.symmetry, s.activation.bits, s.activation.symmetry);
  };
  return key(a) == key(b);
}

ordered_json scheme(const LinearSpec& spec, const ordered_json& targets) {
  const bool is_grouped = spec.weight.group_size > 0;
  ordered_json activations;  // null: not quantised
  if (spec.activation.bits < 16)
    activations = {{"num_bits", spec.activation.bits},
                   {"type", "int"},
                   {"symmetric", spec.activation.symmetry == Symmetry::symmetric},
                   {"strategy", "token"},
                   {"dynamic", true}};
  return {{"targets", targets},
          {"format", format_of(spec)},
          {"weights",
           {{"num_bits", spec.weight.bits},
            {"type", "int"},
            {"symmetric", spec.weight.symmetry == Symmetry::symmetric},
            {"strategy", is_grouped ? "group" : "channel"},
            {"group_size", is_grouped ? ordered_json(spec.weight.group_size) : ordered_json()},
            {"dynamic", false},
            {"actorder", nullptr}}},
          {"input_activations", activations},
          {"output_activations", nullptr}};
}

struct Group {
  LinearSpec spec;
  ordered_json names = ordered_json::array();
};

void CompressedTensors::describe(ordered_json& config, const ExportedModel& model) const {
  std::vector<Group> groups;  // one per distinct scheme
  ordered_json ignored = {"lm_head"};
  if (model.config.family == Family::opt && model.config.embed_dim != model.config.hidden)
    for (const char* name : {"model.decoder.project_in", "model.decoder.project_out"}) ignored.push_back(name);
  for_each_linear(model.config, model.specs, [&](const std::string& name, LinearRole, const LinearSpec& spec) {
    if (!spec.weight.quantised()) {
      ignored.push_back(name);
      return;
    }
    auto group = std::ranges::find_if(groups, [&](const Group& g) { return is_equal(g.spec, spec); });
    if (group == groups.end()) group = groups.insert(groups.end(), {spec});
    group->names.push_back(name);
  });
  const auto extra = extra_quantisers(model, ListedActivations::of_dense_weights);
  if (groups.empty()) {
    if (!extra.empty()) config["cbq"] = extra;
    return;
  }
  std::string_view format = format_of(groups[0].spec);
  for (const Group& group : groups)
    if (format != format_of(group.spec)) format = "mixed-precision";
  ordered_json config_groups;
  for (std::size_t i = 0; i < groups.size(); ++i)
    config_groups["group_" + std::to_string(i)] =
        scheme(groups[i].spec, groups.size() == 1 ? ordered_json{"Linear"} : groups[i].names);
  ordered_json quantisation = {{"quant_method", "compressed-tensors"},
                               {"version", kVersion},
                               {"format", format},
                               {"quantization_status", "compressed"},
                               {"global_compression_ratio", nullptr},
                               {"kv_cache_scheme", nullptr},
                               {"ignore", ignored},
                               {"sparsity_config", ordered_json::object()},
                               {"transform_config", ordered_json::object()},
                               {"config_groups", config_groups}};
  // Readers of the format take no notice of keys at this level that they do not know.
  if (!extra.empty()) quantisation["cbq"] = extra;
  config["quantization_config"] = quantisation;
}

}  // namespace

std::unique_ptr<LayerFormat> compressed_tensors_format() {
  return std::make_unique<CompressedTensors>();
}

}  // namespace cbq
