// The format `pack-quantized` of compressed-tensors, version 0.18.0. Per linear layer with b bits and groups of G:
//   weight_packed      i32 (out, ceil(in*b/32))    codes q, each row a stream of bits
//   weight_scale       stored dtype (out, in/G)    or (out, 1)
//   weight_zero_point  i32 (ceil(out*b/32), in/G)  asymmetric only; each column a stream
//   weight_shape       i64 (2)                     out, in
// Readers see signed codes q - 2^(b-1) and zero points z - 2^(b-1) with that offset added before packing, so the fields
// are our unsigned q and z, and w = (q - z) * scale in the dtype of the scale.
// Source: https://github.com/vllm-project/compressed-tensors, compressors/pack_quantized at 0.18.0.
#include <algorithm>
#include <array>
#include <tuple>

#include "core/bitpack.h"
#include "quant/export_format.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

using nlohmann::ordered_json;

constexpr const char* kVersion = "0.18.0";  // the first in which fields of 3, 5 and 6 bits may straddle words
constexpr const char* kFormat = "pack-quantized";

std::vector<std::uint8_t> zero_codes(Context& ctx, const std::string& name, const HardWeight& hard) {
  const double last = double((1 << hard.spec.bits) - 1), middle = double(1 << (hard.spec.bits - 1));
  std::vector<std::uint8_t> codes;
  for (const float zero : to_host<float>(ctx, hard.zero)) {
    const bool is_allowed = hard.spec.symmetry == Symmetry::symmetric
                                ? zero == middle
                                : zero >= 0 && zero <= last && zero == float(int(zero));
    require(is_allowed, "export: ", name, ": found zero point ", zero, " in a grid of ", hard.spec.bits, " bits");
    codes.push_back(std::uint8_t(zero));
  }
  return codes;
}

class CompressedTensors final : public ExportFormat {
 public:
  std::vector<TensorSpec> tensors(const std::string& name, const Shape& shape, const WeightSpec& spec,
                                  DType stored) const override {
    const std::int64_t out = shape[0], in = shape[1];
    const Shape grid = spec.grid_shape(shape);
    std::vector<TensorSpec> specs = {{name + ".weight_packed", DType::i32, {out, word_count(in, spec.bits)}},
                                     {name + ".weight_scale", stored, grid},
                                     {name + ".weight_shape", DType::i64, {2}}};
    if (spec.symmetry == Symmetry::asymmetric)
      specs.push_back({name + ".weight_zero_point", DType::i32, {word_count(out, spec.bits), grid[1]}});
    return specs;
  }

  void write(Context& ctx, ShardWriter& shards, const std::string& name, const HardWeight& hard,
             DType stored) const override {
    const int bits = hard.spec.bits;
    const std::int64_t out = hard.codes.size(0), in = hard.codes.size(1), groups = hard.scale.size(1);
    const auto rows = to_host<std::int32_t>(ctx, packed(ctx, hard));
    shards.write(name + ".weight_packed", std::as_bytes(std::span(rows)));

    const auto scale = exact_bytes(ctx, hard.scale, stored);
    require(scale.has_value(), "export: ", name, ".weight_scale is not exact in ", stored);
    shards.write(name + ".weight_scale", *scale);

    const std::array<std::int64_t, 2> shape = {out, in};
    shards.write(name + ".weight_shape", std::as_bytes(std::span(shape)));

    const std::vector<std::uint8_t> zeros = zero_codes(ctx, name, hard);
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
          {"format", kFormat},
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
  for_each_linear(model, [&](const std::string& name, const LinearSpec& spec) {
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
  ordered_json config_groups;
  for (std::size_t i = 0; i < groups.size(); ++i)
    config_groups["group_" + std::to_string(i)] =
        scheme(groups[i].spec, groups.size() == 1 ? ordered_json{"Linear"} : groups[i].names);
  ordered_json quantisation = {{"quant_method", "compressed-tensors"},
                               {"version", kVersion},
                               {"format", kFormat},
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

std::unique_ptr<ExportFormat> compressed_tensors_format() {
  return std::make_unique<CompressedTensors>();
}

}  // namespace cbq
