// The model that is trained: its architecture, its parameters and its loss.
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/rng.h"
#include "models/trainer.h"
#include "models/vocabulary.h"

namespace cbq {
namespace {

using nlohmann::ordered_json;

// Gives the weight of a name and shape.
using WeightSource = std::function<Var(const std::string& name, const Shape& shape)>;

struct Weights {
  OuterWeights outer;
  std::vector<BlockWeights> blocks;
};

Norm norm_from(const ModelConfig& config, const WeightSource& source, const std::string& name) {
  Norm norm{source(name + ".weight", {config.hidden}), {}};
  if (config.family == Family::opt) norm.bias = source(name + ".bias", {config.hidden});
  return norm;
}

// Asks for every weight once, in a fixed order.
Weights weights_from(const ModelConfig& config, const WeightSource& source) {
  const bool is_opt = config.family == Family::opt;
  const std::string root = is_opt ? "model.decoder." : "model.";
  Weights weights;
  OuterWeights& outer = weights.outer;
  outer.embed_tokens = source(root + "embed_tokens.weight", {config.vocab, config.hidden});
  if (is_opt)
    outer.embed_positions =
        source(root + "embed_positions.weight", {config.max_positions + kOptPositionOffset, config.hidden});
  for (std::int64_t i = 0; i < config.layers; ++i) {
    BlockWeights& block = weights.blocks.emplace_back();
    for (const LinearRole role : linear_roles(config.family)) {
      const std::string name = linear_name(config, i, role);
      const Shape shape = weight_shape(config, role);
      block[role].weight = source(name + ".weight", shape);
      if (has_bias(config, role)) block[role].bias = source(name + ".bias", {shape[0]});
    }
    block.attention_norm = norm_from(config, source, norm_name(config, i, NormRole::attention));
    block.mlp_norm = norm_from(config, source, norm_name(config, i, NormRole::mlp));
  }
  outer.final_norm = norm_from(config, source, root + (is_opt ? "final_layer_norm" : "norm"));
  outer.lm_head = config.tied_head ? outer.embed_tokens : source("lm_head.weight", {config.vocab, config.hidden});
  return weights;
}

// Whether the output of this weight is added to the residual stream.
bool adds_to_residual(const ModelConfig& config, const std::string& name) {
  return name.ends_with(short_name(config, LinearRole::o) + ".weight") ||
         name.ends_with(short_name(config, LinearRole::down) + ".weight");
}

Tensor initial_value(Context& ctx, const ModelConfig& config, const std::string& name, const Shape& shape, Rng& rng) {
  if (shape.rank() == 1) return full(ctx, shape, DType::f32, name.ends_with(".weight") ? 1 : 0);
  double deviation = std::sqrt(2 / (5 * double(config.hidden)));
  if (adds_to_residual(config, name)) deviation /= std::sqrt(2 * double(config.layers));
  std::vector<float> values(std::size_t(shape.count()));
  for (float& value : values) value = float(deviation * rng.normal());
  return from_host<float>(ctx, shape, DType::f32, values);
}

// Columns begin .. end-1 of the windows, one after the other.
Tensor columns(Context& ctx, const Windows& windows, std::ptrdiff_t begin, std::ptrdiff_t end) {
  std::vector<std::int32_t> ids;
  for (const auto& window : windows) ids.insert(ids.end(), window.begin() + begin, window.begin() + end);
  return from_host<std::int32_t>(ctx, {std::ssize(ids)}, DType::i32, ids);
}

const char* dtype_name(DType dtype) {
  return dtype == DType::f16 ? "float16" : dtype == DType::bf16 ? "bfloat16" : "float32";
}

}  // namespace

ModelConfig model_config(const TrainConfig& train) {
  const std::int64_t kv_heads = train.kv_heads > 0 ? train.kv_heads : train.heads;
  const bool is_opt = train.family == Family::opt;
  require_input(train.hidden % train.heads == 0, "hidden: expected a multiple of heads (", train.heads, "), found ",
                train.hidden);
  require_input(is_opt || train.hidden / train.heads % 2 == 0, "hidden: expected an even number a head, found ",
                train.hidden / train.heads);
  require_input(is_opt ? kv_heads == train.heads : train.heads % kv_heads == 0, "kv_heads: expected ",
                is_opt ? "as many as heads in family opt" : "a divisor of heads", " (", train.heads, "), found ",
                kv_heads);
  require_input(train.vocab >= smallest_vocabulary(train.family), "vocab: expected at least ",
                smallest_vocabulary(train.family), ", the bytes and the special tokens, found ", train.vocab);
  ModelConfig config{};
  config.architecture = is_opt ? "OPTForCausalLM" : "LlamaForCausalLM";
  config.family = train.family;
  config.layers = train.layers, config.hidden = train.hidden, config.ffn = train.ffn;
  config.heads = train.heads, config.kv_heads = kv_heads, config.head_dim = train.hidden / train.heads;
  config.vocab = train.vocab, config.max_positions = train.seqlen, config.embed_dim = train.hidden;
  config.norm_eps = 1e-5;
  config.activation = is_opt ? Activation::relu : Activation::silu;
  config.tied_head = train.tie_word_embeddings;
  config.qkv_bias = config.o_bias = config.mlp_bias = is_opt;
  config.dtype = train.dtype;
  config.bos = first_token(train.family);
  config.eos = {*config.bos};
  return config;
}

ordered_json checkpoint_config(const ModelConfig& config) {
  ordered_json json = {{"architectures", {config.architecture}},
                       {"bos_token_id", config.bos.value()},
                       {"eos_token_id", config.eos.at(0)},
                       {"hidden_size", config.hidden},
                       {"max_position_embeddings", config.max_positions},
                       {"num_attention_heads", config.heads},
                       {"num_hidden_layers", config.layers},
                       {"tie_word_embeddings", config.tied_head},
                       {"torch_dtype", dtype_name(config.dtype)},
                       {"use_cache", true},
                       {"vocab_size", config.vocab},
                       {"attention_dropout", 0.0}};
  if (config.family == Family::opt)
    json.update({{"model_type", "opt"},
                 {"_remove_final_layer_norm", false},
                 {"activation_function", "relu"},
                 {"do_layer_norm_before", true},
                 {"dropout", 0.0},
                 {"enable_bias", true},
                 {"ffn_dim", config.ffn},
                 {"layer_norm_elementwise_affine", true},
                 {"layerdrop", 0.0},
                 {"pad_token_id", 1},
                 {"word_embed_proj_dim", config.embed_dim}});
  else
    json.update({{"model_type", "llama"},
                 {"attention_bias", false},
                 {"head_dim", config.head_dim},
                 {"hidden_act", "silu"},
                 {"intermediate_size", config.ffn},
                 {"mlp_bias", false},
                 {"num_key_value_heads", config.kv_heads},
                 {"pretraining_tp", 1},
                 {"rms_norm_eps", config.norm_eps},
                 {"rope_scaling", nullptr},
                 {"rope_theta", config.rope_theta}});
  return json;
}

TrainableModel::TrainableModel(Context& ctx, const ModelConfig& config, std::uint64_t seed)
    : ctx_(ctx), config_(config) {
  Rng rng(seed);
  weights_from(config_, [&](const std::string& name, const Shape& shape) {
    return Var(parameters_.emplace_back(name, initial_value(ctx, config_, name, shape, rng)).value);
  });
}

Var TrainableModel::loss(Tape& tape, const Windows& windows) const {
  require(!windows.empty() && windows[0].size() >= 2, "train: expected windows of at least 2 tokens");
  for (const auto& window : windows)
    require(window.size() == windows[0].size(), "train: expected windows of one length, found ", window.size());
  auto next = parameters_.begin();
  const Weights weights = weights_from(config_, [&](const std::string&, const Shape&) { return tape.leaf(*next++); });
  const auto batch = std::ssize(windows), tokens = std::ssize(windows[0]) - 1;
  const Sequence sequence = make_sequence(ctx_, config_, batch, 0, tokens, DType::f32);
  Var x = embed(ctx_, config_, weights.outer, columns(ctx_, windows, 0, tokens), batch, 0);
  for (const BlockWeights& block : weights.blocks) {
    DenseBlock layers(config_, block);
    x = block_forward(ctx_, config_, layers, x, sequence);
  }
  const Var y = ops::linear(ctx_, final_hidden(ctx_, config_, weights.outer, x), weights.outer.lm_head);
  return ops::cross_entropy(ctx_, y, columns(ctx_, windows, 1, tokens + 1));
}

void TrainableModel::write_tensors(const std::filesystem::path& file) const {
  std::vector<TensorSpec> specs;
  for (const Parameter& parameter : parameters_)
    specs.push_back({parameter.name, config_.dtype, parameter.value.shape()});
  SafetensorsWriter writer(file, specs);
  for (const Parameter& parameter : parameters_) {
    const Tensor rounded = convert(ctx_, parameter.value, config_.dtype);
    std::vector<std::byte> bytes(std::size_t(rounded.bytes()));
    to_host_bytes(ctx_, bytes, rounded);
    writer.write(parameter.name, bytes);
  }
  writer.finish();
}

}  // namespace cbq
