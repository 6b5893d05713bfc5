// GPTQ checkpoints as AutoGPTQ and GPTQModel define them. Per linear layer with b bits and groups of G:
//   qweight  i32 (ceil(in*b/32), out)    codes q, each column a stream of bits along `in`
//   qzeros   i32 (in/G, ceil(out*b/32))  zero points, each row a stream along `out`: z - 1 in v1, z in v2
//   scales   f16 (in/G, out)
//   g_idx    i32 (in)                    the group of each input
// and w = scale * (q - z) in the dtype that the model is loaded in. v1 cannot hold z = 0, so it is for symmetric grids
// alone. Source: https://github.com/ModelCloud/GPTQModel, nn_modules/qlinear.
#include <algorithm>
#include <optional>

#include "core/bitpack.h"
#include "quant/export_format.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

using nlohmann::ordered_json;

constexpr const char* kQuantizer = "cbq:0.1.0";

enum class GptqVersion { v1, v2 };

template <class T>
std::vector<T> transposed(const std::vector<T>& x, std::int64_t rows, std::int64_t cols) {
  constexpr std::int64_t kTile = 64;  // a tile of both sides stays in the nearest cache
  std::vector<T> y(x.size());
#pragma omp parallel for
  for (std::int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (std::int64_t c0 = 0; c0 < cols; c0 += kTile)
      for (std::int64_t r = r0; r < std::min(r0 + kTile, rows); ++r)
        for (std::int64_t c = c0; c < std::min(c0 + kTile, cols); ++c)
          y[std::size_t(c * rows + r)] = x[std::size_t(r * cols + c)];
  return y;
}

class Gptq final : public LayerFormat {
 public:
  explicit Gptq(GptqVersion version) : version_(version) {}

  std::vector<TensorSpec> tensors(const std::string& name, const Shape& shape, const LinearSpec& spec,
                                  DType) const override {
    const std::int64_t out = shape[0], in = shape[1], groups = spec.weight.grid_shape(shape)[1];
    const int bits = spec.weight.bits;
    return {{name + ".qweight", DType::i32, {word_count(in, bits), out}},
            {name + ".qzeros", DType::i32, {groups, word_count(out, bits)}},
            {name + ".scales", DType::f16, {groups, out}},
            {name + ".g_idx", DType::i32, {in}}};
  }

  void write(Context& ctx, ShardWriter& shards, const std::string& name, const HardWeight& hard, const LinearSpec&,
             DType) const override {
    const int bits = hard.spec.bits;
    const std::int64_t out = hard.codes.size(0), in = hard.codes.size(1), groups = hard.scale.size(1);
    std::vector<std::uint32_t> words(std::size_t(word_count(in, bits) * out));
    pack_columns(transposed(to_host<std::uint8_t>(ctx, hard.codes), out, in), in, out, bits, words);
    shards.write(name + ".qweight", std::as_bytes(std::span(words)));

    std::vector<std::uint8_t> zeros = transposed(zero_codes(ctx, name, hard), out, groups);
    if (version_ == GptqVersion::v1)
      for (std::uint8_t& zero : zeros) --zero;
    words.assign(std::size_t(groups * word_count(out, bits)), 0);
    pack_rows(zeros, groups, out, bits, words);
    shards.write(name + ".qzeros", std::as_bytes(std::span(words)));

    const auto scales = transposed(to_host<float>(ctx, hard.scale), out, groups);
    const auto bytes = exact_bytes(ctx, from_host<float>(ctx, {groups, out}, DType::f32, scales), DType::f16);
    require(bytes.has_value(), "export: ", name, ".scales is not exact in f16");
    shards.write(name + ".scales", *bytes);

    std::vector<std::int32_t> group_of(static_cast<std::size_t>(in));
    for (std::int64_t i = 0; i < in; ++i) group_of[std::size_t(i)] = std::int32_t(i / (in / groups));
    shards.write(name + ".g_idx", std::as_bytes(std::span(group_of)));
  }

  void describe(ordered_json& config, const ExportedModel& model) const override;
  std::string config_file() const override { return "quantize_config.json"; }

 private:
  GptqVersion version_;
};

// ---- config.json

ordered_json scheme(const WeightSpec& spec) {
  return {{"bits", spec.bits}, {"group_size", spec.group_size}, {"sym", spec.symmetry == Symmetry::symmetric}};
}

// A regular expression that matches the name alone.
std::string exactly(const std::string& name) {
  std::string pattern = "^";
  for (const char c : name) pattern += c == '.' ? "\\." : std::string(1, c);
  return pattern + "$";
}

// The scheme of the first quantised layer is the model's; "dynamic" names the layers that have another ("+:") or none
// ("-:").
void Gptq::describe(ordered_json& config, const ExportedModel& model) const {
  std::optional<ordered_json> common;
  ordered_json dynamic = ordered_json::object();
  if (model.config.family == Family::opt && model.config.embed_dim != model.config.hidden)
    for (const char* name : {"model.decoder.project_in", "model.decoder.project_out"})
      dynamic["-:" + exactly(name)] = ordered_json::object();
  for_each_linear(model.config, model.specs, [&](const std::string& name, LinearRole, const LinearSpec& spec) {
    if (!spec.weight.quantised()) {
      dynamic["-:" + exactly(name)] = ordered_json::object();
      return;
    }
    const ordered_json own = scheme(spec.weight);
    if (!common) common = own;
    if (own != *common) dynamic["+:" + exactly(name)] = own;
  });
  const auto extra = extra_quantisers(model, ListedActivations::all);
  if (!extra.empty()) config["cbq"] = extra;
  if (!common) return;
  ordered_json quantisation = {{"quant_method", "gptq"}};
  quantisation.update(*common);
  quantisation.update({{"desc_act", false},
                       {"lm_head", false},
                       {"checkpoint_format", version_ == GptqVersion::v1 ? "gptq" : "gptq_v2"},
                       {"pack_dtype", "int32"},
                       {"true_sequential", false},
                       {"damp_percent", 0.01},
                       {"meta", {{"quantizer", {kQuantizer}}}}});
  if (!dynamic.empty()) quantisation["dynamic"] = dynamic;
  config["quantization_config"] = quantisation;
}

}  // namespace

std::unique_ptr<LayerFormat> gptq_format(const std::vector<BlockSpec>& specs) {
  GptqVersion version = GptqVersion::v1;
  for (const BlockSpec& block : specs)
    for (const LinearSpec& spec : block)
      if (spec.weight.quantised() &&
          (spec.weight.symmetry == Symmetry::asymmetric || (spec.weight.bits != 4 && spec.weight.bits != 8)))
        version = GptqVersion::v2;
  return std::make_unique<Gptq>(version);
}

}  // namespace cbq
