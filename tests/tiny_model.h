// Checkpoints of a few thousand random weights, with sizes that fill no 32-bit word, and hardened blocks for them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/rng.h"
#include "core/safetensors.h"
#include "models/model.h"
#include "quant/quant_block.h"
#include "tests/temp_folder.h"

namespace cbq {

struct TinyModel {
  Family family = Family::llama;
  DType dtype = DType::f16;
  bool tied = false;
  std::int64_t layers = 2;
  std::int64_t hidden = 36, ffn = 44, heads = 3, kv_heads = 1, vocab = 20;
};

// `count` normal numbers, rounded to `dtype`, as its bytes.
inline std::vector<std::byte> normal_bytes(Context& ctx, Rng& rng, const Shape& shape, DType dtype) {
  std::vector<float> values(std::size_t(shape.count()));
  for (float& value : values) value = float(0.1 * rng.normal());
  const Tensor x = convert(ctx, from_host<float>(ctx, shape, DType::f32, values), dtype);
  std::vector<std::byte> bytes(std::size_t(x.bytes()));
  to_host_bytes(ctx, bytes, x);
  return bytes;
}

inline nlohmann::ordered_json tiny_config(const TinyModel& tiny) {
  nlohmann::ordered_json config = {
      {"vocab_size", tiny.vocab},          {"num_hidden_layers", tiny.layers}, {"hidden_size", tiny.hidden},
      {"num_attention_heads", tiny.heads}, {"max_position_embeddings", 16},    {"torch_dtype", torch_name(tiny.dtype)},
      {"tie_word_embeddings", tiny.tied},  {"quantization_config", nullptr},   {"unknown_key", {1e-5, "kept"}}};
  if (tiny.family == Family::llama)
    config.update({{"architectures", {"LlamaForCausalLM"}},
                   {"model_type", "llama"},
                   {"intermediate_size", tiny.ffn},
                   {"num_key_value_heads", tiny.kv_heads},
                   {"attention_bias", true},
                   {"rms_norm_eps", 1e-5}});
  else
    config.update({{"architectures", {"OPTForCausalLM"}},
                   {"model_type", "opt"},
                   {"ffn_dim", tiny.ffn},
                   {"word_embed_proj_dim", 20}});
  return config;
}

inline std::vector<TensorSpec> tiny_tensors(const TinyModel& tiny, const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  const auto add = [&](const std::string& name, const Shape& shape) { specs.push_back({name, tiny.dtype, shape}); };
  const bool is_opt = tiny.family == Family::opt;
  const std::string root = is_opt ? "model.decoder." : "model.";
  const auto add_norm = [&](const std::string& name) {
    add(name + ".weight", {config.hidden});
    if (is_opt) add(name + ".bias", {config.hidden});
  };
  add(root + "embed_tokens.weight", {config.vocab, config.embed_dim});
  if (is_opt) {
    add(root + "embed_positions.weight", {config.max_positions + kOptPositionOffset, config.hidden});
    add(root + "project_in.weight", {config.hidden, config.embed_dim});
    add(root + "project_out.weight", {config.embed_dim, config.hidden});
  }
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    for (const LinearRole role : linear_roles(config.family)) {
      add(linear_name(config, layer, role) + ".weight", weight_shape(config, role));
      if (has_bias(config, role)) add(linear_name(config, layer, role) + ".bias", {weight_shape(config, role)[0]});
    }
    add_norm(norm_name(config, layer, NormRole::attention));
    add_norm(norm_name(config, layer, NormRole::mlp));
  }
  add_norm(root + (is_opt ? "final_layer_norm" : "norm"));
  add("lm_head.weight", {config.vocab, config.embed_dim});  // a tied model may hold it too
  return specs;
}

inline ModelConfig write_tiny_model(Context& ctx, const std::filesystem::path& folder, const TinyModel& tiny) {
  std::filesystem::create_directories(folder);
  write_file(folder / "config.json", tiny_config(tiny).dump(2));
  for (const char* name :
       {"tokenizer.json", "vocab.json", "chat_template.jinja", "LICENSE.txt", "generation_config.json"})
    write_file(folder / name, std::string(name) + " of the source\n");
  write_file(folder / "notes.txt", "not copied");
  const ModelConfig config = read_model_config(folder);
  Rng rng(7);
  const std::vector<TensorSpec> specs = tiny_tensors(tiny, config);
  SafetensorsWriter writer(folder / "model.safetensors", specs);
  for (const TensorSpec& spec : specs) writer.write(spec.name, normal_bytes(ctx, rng, spec.shape, spec.dtype));
  writer.finish();
  return config;
}

// ---- hardened blocks

inline Tensor normal_tensor(Context& ctx, Rng& rng, const Shape& shape, DType stored, DType compute) {
  return convert(ctx, from_host_bytes(ctx, shape, stored, normal_bytes(ctx, rng, shape, stored)), compute);
}

// Random codes and zero points over the whole grid, step sizes that `stored` and f16 hold.
inline HardWeight random_hard_weight(Context& ctx, Rng& rng, const Shape& shape, const WeightSpec& spec, DType stored,
                                     DType compute) {
  std::vector<std::uint8_t> codes(std::size_t(shape.count()));
  for (auto& code : codes) code = std::uint8_t(rng.below(1u << spec.bits));
  const Shape grid = spec.grid_shape(shape);
  std::vector<float> scales(std::size_t(grid.count())), zeros(std::size_t(grid.count()));
  for (float& scale : scales) scale = float(0.01 + 0.1 * rng.uniform());
  for (float& zero : zeros)
    zero = spec.symmetry == Symmetry::symmetric ? float(1 << (spec.bits - 1)) : float(rng.below(1u << spec.bits));
  const Tensor scale = convert(ctx, convert(ctx, from_host<float>(ctx, grid, DType::f32, scales), stored), DType::f16);
  return {spec, from_host<std::uint8_t>(ctx, shape, DType::u8, codes), convert(ctx, scale, compute),
          from_host<float>(ctx, grid, compute, zeros)};
}

inline HardBlock random_hard_block(Context& ctx, Rng& rng, const ModelConfig& config, const BlockSpec& spec,
                                   DType compute) {
  HardBlock block;
  block.spec = spec;
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    const Shape shape = weight_shape(config, role);
    if (spec[i].weight.quantised()) {
      block.hard[i] = random_hard_weight(ctx, rng, shape, spec[i].weight, config.dtype, compute);
    } else {
      block.weights[role].weight = normal_tensor(ctx, rng, shape, config.dtype, compute);
    }
    if (has_bias(config, role)) block.weights[role].bias = normal_tensor(ctx, rng, {shape[0]}, config.dtype, compute);
    if (spec[i].activation.bits < 16)
      block.activation_factor[std::size_t(site_of(role))] = float(0.9 + 0.1 * rng.uniform());
  }
  for (Norm* norm : {&block.weights.attention_norm, &block.weights.mlp_norm}) {
    norm->weight = normal_tensor(ctx, rng, {config.hidden}, config.dtype, compute);
    if (config.family == Family::opt) norm->bias = normal_tensor(ctx, rng, {config.hidden}, config.dtype, compute);
  }
  return block;
}

inline BlockSpec uniform_spec(const ModelConfig& config, const LinearSpec& spec) {
  BlockSpec block;
  block.fill({{16, -1, Symmetry::asymmetric}, {16, Symmetry::symmetric}});
  for (const LinearRole role : linear_roles(config.family)) block[std::size_t(role)] = spec;
  return block;
}

// ---- comparisons, bit for bit

inline bool same_bits(Context& ctx, const Tensor& a, const Tensor& b) {
  if (!a || !b) return !a && !b;
  if (a.shape() != b.shape() || a.dtype() != b.dtype()) return false;
  std::vector<std::byte> x(std::size_t(a.bytes())), y(x.size());
  to_host_bytes(ctx, x, a);
  to_host_bytes(ctx, y, b);
  return x == y;
}

inline bool same_norm(Context& ctx, const Norm& a, const Norm& b) {
  return same_bits(ctx, a.weight.value, b.weight.value) && same_bits(ctx, a.bias.value, b.bias.value);
}

inline bool same_weights(Context& ctx, const BlockWeights& a, const BlockWeights& b) {
  for (std::size_t i = 0; i < kLinearRoles; ++i)
    if (!same_bits(ctx, a.linears[i].weight.value, b.linears[i].weight.value) ||
        !same_bits(ctx, a.linears[i].bias.value, b.linears[i].bias.value))
      return false;
  return same_norm(ctx, a.attention_norm, b.attention_norm) && same_norm(ctx, a.mlp_norm, b.mlp_norm);
}

inline bool same_block(Context& ctx, const HardBlock& a, const HardBlock& b) {
  for (std::size_t i = 0; i < kLinearRoles; ++i) {
    if (a.hard[i].has_value() != b.hard[i].has_value()) return false;
    const WeightSpec &u = a.spec[i].weight, &v = b.spec[i].weight;
    if ((a.hard[i] || a.weights.linears[i].weight.value) &&
        (u.bits != v.bits || u.group_size != v.group_size || u.symmetry != v.symmetry ||
         a.spec[i].activation.bits != b.spec[i].activation.bits ||
         a.spec[i].activation.symmetry != b.spec[i].activation.symmetry))
      return false;
    if (a.hard[i] &&
        (!same_bits(ctx, a.hard[i]->codes, b.hard[i]->codes) || !same_bits(ctx, a.hard[i]->scale, b.hard[i]->scale) ||
         !same_bits(ctx, a.hard[i]->zero, b.hard[i]->zero)))
      return false;
  }
  return same_weights(ctx, a.weights, b.weights) && a.activation_factor == b.activation_factor &&
         a.kv_cache.bits == b.kv_cache.bits && a.kv_cache.symmetry == b.kv_cache.symmetry;
}

}  // namespace cbq
