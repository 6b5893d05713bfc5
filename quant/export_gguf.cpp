#include "quant/export_gguf.h"

#include <algorithm>
#include <map>

#include "models/gguf.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "quant/gguf_scheme.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

// The number by which llama.cpp calls a file whose weights are mostly of this type.
std::uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::f32: return 0;
    case GgmlType::f16: return 1;
    case GgmlType::q4_0: return 2;
    case GgmlType::q4_1: return 3;
    case GgmlType::q8_0: return 7;
    case GgmlType::bf16: return 32;
  }
  return 0;
}

class Exporter {
 public:
  Exporter(Context& ctx, const ExportSource& source)
      : ctx_(ctx), source_(source), checkpoint_(source.checkpoint), model_(source.config) {}

  void run(const std::filesystem::path& file) {
    std::vector<GgufTensorSpec> specs;
    for_each_outer([&](const std::string& name, const Shape& shape) {
      specs.push_back(
          {gguf_name(name), shape.rank() == 1 ? GgmlType::f32 : ggml_type(checkpoint_.info(name).dtype), shape});
    });
    if (model_.rope_scaling) specs.push_back({kRopeFactors, GgmlType::f32, {model_.head_dim / 2}});
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) plan_block(specs, layer);

    GgufWriter writer(file, metadata(), std::move(specs));
    for_each_outer([&](const std::string& name, const Shape& shape) { write_outer(writer, name, shape); });
    if (model_.rope_scaling) write_rope_factors(writer);
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) write_block(writer, layer, source_.block(layer));
    writer.finish();
  }

 private:
  static constexpr const char* kRopeFactors = "rope_freqs.weight";

  bool permutes() const { return model_.architecture != "Qwen2ForCausalLM"; }
  bool permutes(LinearRole role) const { return permutes() && (role == LinearRole::q || role == LinearRole::k); }
  std::int64_t source_row(LinearRole role, std::int64_t row) const {
    return permutes(role) ? hf_row(row, model_.head_dim) : row;
  }

  template <class Visit>
  void for_each_outer(const Visit& visit) const {
    visit("model.embed_tokens.weight", Shape{model_.vocab, model_.hidden});
    visit("model.norm.weight", Shape{model_.hidden});
    if (!model_.tied_head) visit("lm_head.weight", Shape{model_.vocab, model_.hidden});
  }

  void write_outer(GgufWriter& writer, const std::string& name, const Shape& shape) const {
    require_input(checkpoint_.info(name).shape == shape, checkpoint_.tensor_text(name), ": expected ", shape,
                  ", found ", checkpoint_.info(name).shape);
    if (shape.rank() == 1) {
      write_f32(writer, gguf_name(name), checkpoint_.load(ctx_, name, shape, DType::f32));
      return;
    }
    writer.write(gguf_name(name), checkpoint_.bytes(name));
    checkpoint_.release(name);
  }

  std::vector<float> f32_values(const Tensor& x) const {
    return to_host<float>(ctx_, x.dtype() == DType::f32 ? x : convert(ctx_, x, DType::f32));
  }

  void write_f32(GgufWriter& writer, const std::string& name, const Tensor& x) const {
    const auto values = f32_values(x);
    writer.write(name, std::as_bytes(std::span(values)));
  }

  void write_rope_factors(GgufWriter& writer) const {
    ModelConfig plain = model_;
    plain.rope_scaling.reset();
    std::vector<float> factors;
    for (std::int64_t i = 0; i < model_.head_dim / 2; ++i)
      factors.push_back(float(rope_frequency(plain, i) / rope_frequency(model_, i)));
    writer.write(kRopeFactors, std::as_bytes(std::span(factors)));
  }

  std::string weight_name(std::int64_t layer, LinearRole role, const char* suffix) const {
    return gguf_name(linear_name(model_, layer, role) + suffix);
  }
  const WeightSpec& spec(std::int64_t layer, LinearRole role) const {
    return source_.specs.at(std::size_t(layer))[std::size_t(role)].weight;
  }

  void plan_block(std::vector<GgufTensorSpec>& planned, std::int64_t layer) const {
    for (const LinearRole role : linear_roles(model_.family)) {
      const Shape shape = weight_shape(model_, role);
      planned.push_back(
          {weight_name(layer, role, ".weight"), gguf_type(spec(layer, role), shape, model_.dtype), shape});
      if (has_bias(model_, role)) planned.push_back({weight_name(layer, role, ".bias"), GgmlType::f32, {shape[0]}});
    }
    for (const NormRole role : {NormRole::attention, NormRole::mlp})
      planned.push_back({gguf_name(norm_name(model_, layer, role) + ".weight"), GgmlType::f32, {model_.hidden}});
  }

  void write_block(GgufWriter& writer, std::int64_t layer, const HardBlock& block) const {
    for (const LinearRole role : linear_roles(model_.family)) {
      const std::string name = weight_name(layer, role, ".weight");
      const Shape shape = weight_shape(model_, role);
      const WeightSpec& planned = spec(layer, role);
      const auto& hard = block.hard[std::size_t(role)];
      require(hard.has_value() == planned.quantised() &&
                  (!hard || (hard->codes.shape() == shape && hard->spec.bits == planned.bits &&
                             hard->scale.shape() == planned.grid_shape(shape))),
              "export: ", linear_name(model_, layer, role), ": the integers in the store do not belong to this run");
      const GgmlType type = gguf_type(planned, shape, model_.dtype);
      if (is_quantised(type))
        writer.write(name, gguf_blocks(ctx_, *hard, type, name, [&](std::int64_t r) { return source_row(role, r); }));
      else
        writer.write(name, dense_rows(name, role,
                                      hard ? dequantise(ctx_, *hard, model_.dtype, hard->scale.dtype())
                                           : block.weights[role].weight.value));
      if (has_bias(model_, role)) {
        const std::vector<float> bias = f32_values(block.weights[role].bias.value);
        std::vector<float> rows;
        for (std::int64_t r = 0; r < shape[0]; ++r) rows.push_back(bias[std::size_t(source_row(role, r))]);
        writer.write(weight_name(layer, role, ".bias"), std::as_bytes(std::span(rows)));
      }
    }
    for (const NormRole role : {NormRole::attention, NormRole::mlp})
      write_f32(writer, gguf_name(norm_name(model_, layer, role) + ".weight"),
                (role == NormRole::attention ? block.weights.attention_norm : block.weights.mlp_norm).weight.value);
  }

  std::vector<std::byte> dense_rows(const std::string& name, LinearRole role, const Tensor& weight) const {
    const auto bytes = exact_bytes(ctx_, weight, model_.dtype);
    require(bytes.has_value(), "export: ", name, " is not exact in ", model_.dtype);
    if (!permutes(role)) return *bytes;
    std::vector<std::byte> rows;
    const std::size_t row_bytes = std::size_t(weight.size(1) * size_of(model_.dtype));
    for (std::int64_t r = 0; r < weight.size(0); ++r) {
      const auto row = std::span(*bytes).subspan(std::size_t(source_row(role, r)) * row_bytes, row_bytes);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  }

  GgmlType most_common_type() const {
    std::map<GgmlType, std::int64_t> values;
    for (std::int64_t layer = 0; layer < model_.layers; ++layer)
      for (const LinearRole role : linear_roles(model_.family)) {
        const Shape shape = weight_shape(model_, role);
        values[gguf_type(spec(layer, role), shape, model_.dtype)] += shape.count();
      }
    return std::ranges::max_element(values, {}, [](const auto& entry) { return entry.second; })->first;
  }

  GgufMetadata metadata() const {
    const std::string architecture = permutes() ? "llama" : "qwen2";
    const auto key = [&](const char* name) { return architecture + "." + name; };
    const std::int64_t positions = std::min(model_.max_positions, model_.sliding_window.value_or(model_.max_positions));
    GgufMetadata m;
    m.add("general.architecture", architecture);
    m.add("general.type", "model");
    m.add("general.name", std::filesystem::absolute(checkpoint_.folder()).lexically_normal().filename().string());
    m.add("general.quantized_by", "cbq");
    m.add("general.quantization_version", std::uint32_t{2});
    m.add("general.file_type", file_type(most_common_type()));
    m.add(kGgufWeightDtype, torch_name(model_.dtype));
    m.add(key("context_length"), std::uint32_t(positions));
    m.add(key("embedding_length"), std::uint32_t(model_.hidden));
    m.add(key("block_count"), std::uint32_t(model_.layers));
    m.add(key("feed_forward_length"), std::uint32_t(model_.ffn));
    m.add(key("attention.head_count"), std::uint32_t(model_.heads));
    m.add(key("attention.head_count_kv"), std::uint32_t(model_.kv_heads));
    m.add(key("attention.key_length"), std::uint32_t(model_.head_dim));
    m.add(key("attention.value_length"), std::uint32_t(model_.head_dim));
    m.add(key("attention.layer_norm_rms_epsilon"), float(model_.norm_eps));
    m.add(key("rope.dimension_count"), std::uint32_t(model_.head_dim));
    m.add(key("rope.freq_base"), float(model_.rope_theta));
    m.add(key("vocab_size"), std::uint32_t(model_.vocab));
    tokenization::add_vocabulary(m, tokenization::gguf_vocabulary(checkpoint_.folder(), model_));
    return m;
  }

  Context& ctx_;
  const ExportSource& source_;
  const Checkpoint& checkpoint_;
  const ModelConfig& model_;
};

}  // namespace

void export_gguf(Context& ctx, const ExportSource& source, const std::filesystem::path& file) {
  Exporter(ctx, source).run(file);
}

}  // namespace cbq
