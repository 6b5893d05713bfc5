#include "models/config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/json.h"
#include "core/safetensors.h"
#include "models/gguf.h"

namespace cbq {
namespace {

using nlohmann::json;

// Largest sizes accepted, far above every model of these families: products of two of them fit 64 bits.
constexpr std::int64_t kMaxLayers = 10'000, kMaxHeads = 65'536, kMaxWidth = 1 << 24, kMaxVocab = 1 << 26,
                       kMaxPositions = std::int64_t(1) << 32;
constexpr const char* kSupported = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, OPTForCausalLM";

// Members of an object of config.json, with errors that name file and key. A null value counts as absent.
class Keys {
 public:
  Keys(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    require_input(object_.is_object(), where_, ": expected an object, found ", object_.type_name());
  }

  const std::string& where() const { return where_; }

  const json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const json& value = required(key, value_text(low, high));
    require_input(is_integer_within(value, low, high), where_, ": ", key, ": expected ", value_text(low, high),
                  ", found ", quoted_text(value.dump()));
    return value.get<std::int64_t>();
  }
  std::int64_t integer_or(const char* key, std::int64_t low, std::int64_t high, std::int64_t absent) const {
    return find(key) ? integer(key, low, high) : absent;
  }
  double positive(const char* key) const {
    const json& value = required(key, "a positive number");
    const bool fits = value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
    require_input(fits, where_, ": ", key, ": expected a positive number, found ", quoted_text(value.dump()));
    return value.get<double>();
  }
  double positive_or(const char* key, double absent) const { return find(key) ? positive(key) : absent; }
  bool flag_or(const char* key, bool absent) const {
    const json* value = find(key);
    require_input(!value || value->is_boolean(), where_, ": ", key, ": expected true or false, found ",
                  value ? quoted_text(value->dump()) : "");
    return value ? value->get<bool>() : absent;
  }
  std::string text_or(const char* key, const char* absent) const {
    const json* value = find(key);
    require_input(!value || value->is_string(), where_, ": ", key, ": expected a string, found ",
                  value ? quoted_text(value->dump()) : "");
    return value ? value->get<std::string>() : absent;
  }
  // Token ids of one number or a list; negative ones mean none.
  std::vector<std::int32_t> token_ids(const char* key) const {
    const json* value = find(key);
    if (!value) return {};
    std::vector<std::int32_t> ids;
    for (const json& id : value->is_array() ? *value : json::array({*value})) {
      require_input(is_integer_within(id, INT32_MIN, INT32_MAX), where_, ": ", key,
                    ": expected a token id or a list of them, found ", quoted_text(value->dump()));
      if (id.get<std::int64_t>() >= 0) ids.push_back(id.get<std::int32_t>());
    }
    return ids;
  }
  // An option of which one value is supported.
  void expect(const char* key, bool supported) const {
    require_input(flag_or(key, supported) == supported, where_, ": ", key, ": only ", supported ? "true" : "false",
                  " is supported, found ", supported ? "false" : "true");
  }

 private:
  static std::string value_text(std::int64_t low, std::int64_t high) {
    return concat("a whole number from ", low, " to ", high);
  }
  static bool is_integer_within(const json& value, std::int64_t low, std::int64_t high) {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t(INT64_MAX)) return false;
    return value.is_number_integer() && value.get<std::int64_t>() >= low && value.get<std::int64_t>() <= high;
  }
  const json& required(const char* key, const std::string& expected) const {
    const json* value = find(key);
    require_input(value, where_, ": expected the key \"", key, "\" with ", expected, ", not found");
    return *value;
  }

  const json& object_;
  std::string where_;
};

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

DType read_dtype(const Keys& keys, const std::filesystem::path* folder) {
  const char* key = keys.find("dtype") ? "dtype" : "torch_dtype";
  const std::string text = keys.text_or(key, "");
  if (text.empty() && folder) return dtype_of_shards(*folder);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64})
    if (text == torch_name(dtype)) return dtype;
  fail(ErrorKind::bad_input, keys.where(), ": ", key, ": expected float32, float16, bfloat16 or float64, found ",
       quoted_text(text));
}

void read_rope(ModelConfig& config, const Keys& keys) {
  config.rope_theta = keys.positive_or("rope_theta", config.rope_theta);
  const char* key = keys.find("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const json* object = keys.find(key);
  if (!object) return;
  const Keys rope(*object, keys.where() + ": " + key);
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

void read_sliding_window(ModelConfig& config, const Keys& keys) {
  if (config.architecture == "Qwen2ForCausalLM") {
    keys.expect("use_sliding_window", false);
  } else if (config.architecture == "MistralForCausalLM" && keys.find("sliding_window")) {
    config.sliding_window = keys.integer("sliding_window", 1, kMaxPositions);
  }
}

void read_llama(ModelConfig& config, const Keys& keys) {
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

Activation read_opt_activation(const Keys& keys) {
  const std::string text = keys.text_or("activation_function", "relu");
  if (text == "relu") return Activation::relu;
  if (text == "gelu") return Activation::gelu;
  if (text == "gelu_new" || text == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  fail(ErrorKind::bad_input, keys.where(),
       ": activation_function: relu, gelu, gelu_new and gelu_pytorch_tanh are supported, found ", quoted_text(text));
}

void read_opt(ModelConfig& config, const Keys& keys) {
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

std::string read_architecture(const Keys& keys) {
  const json* value = keys.find("architectures");
  require_input(value && value->is_array() && !value->empty() && value->front().is_string(), keys.where(),
                ": expected the key \"architectures\" with a list of one name; supported are ", kSupported);
  return value->front().get<std::string>();
}

// `folder`: whose shards say the dtype where the content does not.
ModelConfig read(const json& root, const std::string& where, const std::filesystem::path* folder) {
  const Keys keys(root, where);
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
  return read_dtype(Keys(root, file.string()), &folder);
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
