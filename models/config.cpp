#include "models/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "core/safetensors.h"
#include "models/config_object.h"
#include "models/gguf.h"

namespace cbq {
namespace {

using nlohmann::json;

// Largest sizes accepted, far above every model of these families: products of two of them fit 64 bits.
constexpr std::int64_t kMaxLayers = 10'000, kMaxHeads = 65'536, kMaxWidth = 1 << 24, kMaxVocab = 1 << 26,
                       kMaxPositions = std::int64_t(1) << 32;
constexpr const char* kSupported = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, OPTForCausalLM";

// The element type of the first float tensor of the first shard: what a config without `dtype` means.
DType dtype_of_shards(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& path : files) {
    const SafetensorsFile file(path);
    for (const auto& [name, info] : file.tensors())
      if (is_float(info.dtype)) return info.dtype;
  }
  fail(ErrorKind::bad_input, folder.string(),
       ": config.json has no \"dtype\" and there is no *.safetensors file with float tensors to take it from");
}

DType read_dtype(const ConfigObject& keys, const std::filesystem::path* folder) {
  const char* key = keys.find("dtype") ? "dtype" : "torch_dtype";
  const std::string text = keys.text_or(key, "");
  if (text.empty() && folder) return dtype_of_shards(*folder);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64})
    if (text == torch_name(dtype)) return dtype;
  fail(ErrorKind::bad_input, keys.where(), ": ", key, ": expected float32, float16, bfloat16 or float64, found ",
       quoted_text(text));
}

void read_rope(ModelConfig& config, const ConfigObject& keys) {
  config.rope_theta = keys.positive_or("rope_theta", config.rope_theta);
  const char* key = keys.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const json* object = keys.find(key);
  if (!object) return;
  const ConfigObject rope(*object, keys.where() + ": " + key);
  config.rope_theta = rope.positive_or("rope_theta", config.rope_theta);
  const double partial = rope.positive_or("partial_rotary_factor", 1);
  require_input(partial == 1, rope.where(), ": partial_rotary_factor: only 1 is supported, found ", partial);
  const std::string type = rope.text_or(rope.find("rope_type") ? "rope_type" : "type", "default");
  if (type == "default") return;
  require_input(type == "llama3", rope.where(), ": rope_type: default and llama3 are supported, found ",
                quoted_text(type));
  const Llama3Scaling scaling{rope.positive("factor"), rope.positive("low_freq_factor"),
                              rope.positive("high_freq_factor"), rope.positive("original_max_position_embeddings")};
  require_input(scaling.high_freq_factor > scaling.low_freq_factor, rope.where(),
                ": expected high_freq_factor > low_freq_factor, found ", scaling.high_freq_factor, " and ",
                scaling.low_freq_factor);
  config.rope_scaling = scaling;
}

void read_sliding_window(ModelConfig& config, const ConfigObject& keys) {
  if (config.architecture == "Qwen2ForCausalLM") {
    keys.expect("use_sliding_window", false);
  } else if (config.architecture == "MistralForCausalLM" && keys.find("sliding_window")) {
    config.sliding_window = keys.integer("sliding_window", 1, kMaxPositions);
  }
}

void read_llama(ModelConfig& config, const ConfigObject& keys) {
  config.family = Family::llama;
  config.ffn = keys.integer("intermediate_size", 1, kMaxWidth);
  config.kv_heads = keys.integer_or("num_key_value_heads", 1, kMaxHeads, config.heads);
  require_input(config.heads % config.kv_heads == 0, keys.where(), ": num_attention_heads ", config.heads,
                " is not a multiple of num_key_value_heads ", config.kv_heads);
  if (!keys.find("head_dim"))
    require_input(config.hidden % config.heads == 0, keys.where(), ": hidden_size ", config.hidden,
                  " does not divide among ", config.heads, " heads and there is no head_dim");
  config.head_dim = keys.integer_or("head_dim", 1, kMaxWidth, config.hidden / config.heads);
  require_input(config.head_dim % 2 == 0, keys.where(), ": rotary positions need an even head size, found ",
                config.head_dim);
  config.norm_eps = keys.positive_or("rms_norm_eps", 1e-6);
  const std::string activation = keys.text_or("hidden_act", "silu");
  require_input(activation == "silu", keys.where(), ": hidden_act: only silu is supported, found ",
                quoted_text(activation));
  config.activation = Activation::silu;
  config.tied_head = keys.flag_or("tie_word_embeddings", false);
  const bool is_llama = config.architecture == "LlamaForCausalLM";
  config.qkv_bias = config.architecture == "Qwen2ForCausalLM" || (is_llama && keys.flag_or("attention_bias", false));
  config.o_bias = is_llama && config.qkv_bias;
  config.mlp_bias = is_llama && keys.flag_or("mlp_bias", false);
  config.embed_dim = config.hidden;
  read_rope(config, keys);
  read_sliding_window(config, keys);
}

Activation read_opt_activation(const ConfigObject& keys) {
  const std::string text = keys.text_or("activation_function", "relu");
  if (text == "relu") return Activation::relu;
  if (text == "gelu") return Activation::gelu;
  if (text == "gelu_new" || text == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  fail(ErrorKind::bad_input, keys.where(),
       ": activation_function: relu, gelu, gelu_new and gelu_pytorch_tanh are supported, found ", quoted_text(text));
}

void read_opt(ModelConfig& config, const ConfigObject& keys) {
  config.family = Family::opt;
  config.ffn = keys.integer("ffn_dim", 1, kMaxWidth);
  config.kv_heads = config.heads;
  require_input(config.hidden % config.heads == 0, keys.where(), ": hidden_size ", config.hidden,
                " does not divide among ", config.heads, " heads");
  config.head_dim = config.hidden / config.heads;
  config.norm_eps = 1e-5;
  config.activation = read_opt_activation(keys);
  config.tied_head = keys.flag_or("tie_word_embeddings", true);
  config.qkv_bias = config.o_bias = config.mlp_bias = keys.flag_or("enable_bias", true);
  keys.expect("layer_norm_elementwise_affine", true);
  config.pre_norm = keys.flag_or("do_layer_norm_before", true);
  config.final_norm = config.pre_norm && !keys.flag_or("_remove_final_layer_norm", false);
  config.embed_dim = keys.integer_or("word_embed_proj_dim", 1, kMaxWidth, config.hidden);
}

std::string read_architecture(const ConfigObject& keys) {
  const json* value = keys.find("architectures");
  require_input(value && value->is_array() && !value->empty() && value->front().is_string(), keys.where(),
                ": expected the key \"architectures\" with a list of one name; supported are ", kSupported);
  return value->front().get<std::string>();
}

// `folder`: whose shards say the dtype where the content does not.
ModelConfig read(const json& root, const std::string& where, const std::filesystem::path* folder) {
  const ConfigObject keys(root, where);
  ModelConfig config{};
  config.architecture = read_architecture(keys);
  const std::string& name = config.architecture;
  const bool is_opt = name == "OPTForCausalLM";
  require_input(is_opt || name == "LlamaForCausalLM" || name == "MistralForCausalLM" || name == "Qwen2ForCausalLM",
                where, ": architecture ", quoted_text(name), " is not supported; supported are ", kSupported);
  config.layers = keys.integer("num_hidden_layers", 1, kMaxLayers);
  config.hidden = keys.integer("hidden_size", 1, kMaxWidth);
  config.heads = keys.integer("num_attention_heads", 1, kMaxHeads);
  config.vocab = keys.integer("vocab_size", 1, kMaxVocab);
  config.max_positions = keys.integer("max_position_embeddings", 1, kMaxPositions);
  is_opt ? read_opt(config, keys) : read_llama(config, keys);
  config.dtype = read_dtype(keys, folder);
  if (const auto bos = keys.token_ids("bos_token_id"); !bos.empty()) config.bos = bos.front();
  config.eos = keys.token_ids("eos_token_id");
  return config;
}

}  // namespace

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::f16: return "float16";
    case DType::bf16: return "bfloat16";
    case DType::f64: return "float64";
    default: return "float32";
  }
}

DType read_model_dtype(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  const json root = parse_json_file(file);
  return read_dtype(ConfigObject(root, file.string()), &folder);
}

ModelConfig model_config(const json& root, const std::string& where) {
  return read(root, where, nullptr);
}

ModelConfig read_model_config(const std::filesystem::path& folder) {
  if (const auto file = gguf_file(folder)) return GgufModel(*file).config();
  const std::filesystem::path file = folder / "config.json";
  return read(parse_json_file(file), file.string(), &folder);
}

}  // namespace cbq
