#include "models/gguf.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/json.h"

namespace cbq {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

struct NamePair {
  const char *hf, *gguf;
};
constexpr std::array<NamePair, 3> kOuterNames = {
    {{"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}}};
constexpr std::array<NamePair, 9> kBlockNames = {{{"self_attn.q_proj", "attn_q"},
                                                  {"self_attn.k_proj", "attn_k"},
                                                  {"self_attn.v_proj", "attn_v"},
                                                  {"self_attn.o_proj", "attn_output"},
                                                  {"mlp.gate_proj", "ffn_gate"},
                                                  {"mlp.up_proj", "ffn_up"},
                                                  {"mlp.down_proj", "ffn_down"},
                                                  {"input_layernorm", "attn_norm"},
                                                  {"post_attention_layernorm", "ffn_norm"}}};
constexpr const char* kHfBlock = "model.layers.";
constexpr const char* kGgufBlock = "blk.";

// "PREFIX<number>.PATH.SUFFIX" with the parts exchanged; empty when the name is none of them.
std::string renamed(const std::string& name, const char* NamePair::*from, const char* NamePair::*to,
                    const std::string& from_block, const std::string& to_block) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string::npos) return "";
  const std::string path = name.substr(0, dot), suffix = name.substr(dot);
  if (suffix != ".weight" && suffix != ".bias") return "";
  for (const NamePair& pair : kOuterNames)
    if (path == pair.*from) return pair.*to + suffix;
  if (!path.starts_with(from_block)) return "";
  const std::size_t end = path.find('.', from_block.size());
  if (end == std::string::npos) return "";
  for (const NamePair& pair : kBlockNames)
    if (path.substr(end + 1) == pair.*from)
      return to_block + path.substr(from_block.size(), end + 1 - from_block.size()) + pair.*to + suffix;
  return "";
}

bool is_permuted(const ModelConfig& config, const std::string& gguf) {
  return config.architecture == "LlamaForCausalLM" &&
         (gguf.find(".attn_q.") != std::string::npos || gguf.find(".attn_k.") != std::string::npos);
}

// The shortest decimal number that becomes this f32: what config.json said before it was stored as f32.
double shortest_decimal(double value) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), float(value)).ptr;
  double decimal = value;
  std::from_chars(text.data(), end, decimal);
  return decimal;
}

// Of the embedding where that is stored in a float type, else f32.
DType embedding_dtype(const GgufFile& file) {
  if (!file.contains("token_embd.weight")) return DType::f32;
  const GgmlType type = file.tensor("token_embd.weight").type;
  return cbq::is_quantised(type) ? DType::f32 : dtype_of(type);
}

// The metadata under the names of a config.json.
json config_json(const GgufFile& file) {
  const std::string where = file.path().string();
  const std::string* architecture = file.find<std::string>("general.architecture");
  require_input(architecture && (*architecture == "llama" || *architecture == "qwen2"), where,
                ": general.architecture: llama and qwen2 are supported, found ",
                architecture ? quoted_text(*architecture) : "none");
  const bool is_llama = *architecture == "llama";
  const auto key = [&](const char* name) { return *architecture + "." + name; };
  const auto* split = file.find<std::int64_t>("split.count");
  require_input(!split || *split <= 1, where, ": split.count: expected one file, found ", split ? *split : 0,
                "; join the files first");
  for (const char* name : {"expert_count", "attention.sliding_window"}) {
    const auto* value = file.find<std::int64_t>(key(name));
    require_input(!value || *value == 0, where, ": ", key(name), ": only 0 is supported, found ", value ? *value : 0);
  }
  json config = {{"architectures", {is_llama ? "LlamaForCausalLM" : "Qwen2ForCausalLM"}}};
  const auto take_integer = [&](const char* name, const char* hf) {
    if (const auto* value = file.find<std::int64_t>(key(name))) config[hf] = *value;
  };
  take_integer("context_length", "max_position_embeddings");
  take_integer("embedding_length", "hidden_size");
  take_integer("block_count", "num_hidden_layers");
  take_integer("feed_forward_length", "intermediate_size");
  take_integer("attention.head_count", "num_attention_heads");
  take_integer("attention.head_count_kv", "num_key_value_heads");
  take_integer("attention.key_length", "head_dim");
  if (const auto* eps = file.find<double>(key("attention.layer_norm_rms_epsilon")))
    config["rms_norm_eps"] = shortest_decimal(*eps);
  if (const auto* theta = file.find<double>(key("rope.freq_base"))) config["rope_theta"] = shortest_decimal(*theta);
  if (const auto* scaling = file.find<std::string>(key("rope.scaling.type")); scaling && *scaling != "none")
    config["rope_scaling"] = {{"rope_type", *scaling}};
  // The embedding says how many tokens there are: metadata may lack it.
  if (file.contains("token_embd.weight") && file.tensor("token_embd.weight").shape.rank() == 2)
    config["vocab_size"] = file.tensor("token_embd.weight").shape[0];
  config["tie_word_embeddings"] = !file.contains("output.weight");
  config["attention_bias"] = file.contains("blk.0.attn_q.bias");
  config["mlp_bias"] = file.contains("blk.0.ffn_gate.bias");
  const std::string* weight_dtype = file.find<std::string>(kGgufWeightDtype);
  config["dtype"] = weight_dtype ? *weight_dtype : torch_name(embedding_dtype(file));
  for (const char* name : {"bos_token_id", "eos_token_id"})
    if (const auto* id = file.find<std::int64_t>(concat("tokenizer.ggml.", name))) config[name] = *id;
  return config;
}

// Divisors of the rotary frequencies, where the file has them.
std::vector<double> rope_factors(const GgufFile& file, const ModelConfig& config) {
  constexpr const char* kName = "rope_freqs.weight";
  if (!file.contains(kName)) return {};
  const GgufTensor& tensor = file.tensor(kName);
  require_input(tensor.type == GgmlType::f32 && tensor.shape == Shape{config.head_dim / 2}, file.path().string(), ": ",
                kName, ": expected F32 ", Shape{config.head_dim / 2}, ", found ", tensor.type, " ", tensor.shape);
  std::vector<float> factors(std::size_t(config.head_dim / 2));
  std::memcpy(factors.data(), file.bytes(kName).data(), file.bytes(kName).size());
  for (const float factor : factors)
    require_input(std::isfinite(factor) && factor > 0, file.path().string(), ": ", kName,
                  ": expected positive numbers, found ", factor);
  return {factors.begin(), factors.end()};
}

// Rows of `row_bytes` bytes in the order of Hugging Face.
std::vector<std::byte> unpermuted(std::span<const std::byte> bytes, std::int64_t rows, std::int64_t head_dim) {
  std::vector<std::byte> out(bytes.size());
  const std::size_t row_bytes = rows == 0 ? 0 : bytes.size() / std::size_t(rows);
  for (std::int64_t r = 0; r < rows; ++r)
    std::ranges::copy(bytes.subspan(std::size_t(r) * row_bytes, row_bytes),
                      out.begin() + std::ptrdiff_t(std::size_t(hf_row(r, head_dim)) * row_bytes));
  return out;
}

}  // namespace

std::optional<fs::path> gguf_file(const fs::path& model) {
  std::error_code error;
  if (model.extension() == ".gguf" && fs::is_regular_file(model, error)) return model;
  if (!fs::is_directory(model, error) || fs::exists(model / "config.json", error)) return std::nullopt;
  std::vector<fs::path> files;
  for (fs::directory_iterator entry(model, error), end; !error && entry != end; entry.increment(error))
    if (entry->path().extension() == ".gguf") files.push_back(entry->path());
  require_input(files.size() <= 1, model.string(), ": expected one .gguf file, found ", files.size(),
                "; name the file");
  return files.empty() ? std::nullopt : std::optional(files.front());
}

std::string gguf_name(const std::string& name) {
  return renamed(name, &NamePair::hf, &NamePair::gguf, kHfBlock, kGgufBlock);
}

GgufModel::GgufModel(const fs::path& path)
    : file_(path), config_(model_config(config_json(file_), path.string() + " (metadata)")) {
  const std::string where = path.string(), prefix = *file_.find<std::string>("general.architecture") + ".";
  for (const char* name : {"rope.dimension_count", "attention.value_length"}) {
    const auto* size = file_.find<std::int64_t>(prefix + name);
    require_input(!size || *size == config_.head_dim, where, ": ", prefix, name, ": expected the head size ",
                  config_.head_dim, ", found ", size ? *size : 0);
  }
  config_.rope_factors = rope_factors(file_, config_);
  if (file_.find<std::string>(kGgufWeightDtype)) weight_dtype_ = config_.dtype;
  for (const auto& [stored, tensor] : file_.tensors()) {
    const std::string name = renamed(stored, &NamePair::gguf, &NamePair::hf, kGgufBlock, kHfBlock);
    if (name.empty()) continue;  // rope_freqs.weight and the like
    tensors_[name] = {cbq::is_quantised(tensor.type) ? DType::u8 : dtype_of(tensor.type), tensor.shape, tensor.begin,
                      tensor.bytes};
  }
}

Tensor GgufModel::load(Context& ctx, const std::string& name) const {
  const std::string stored = gguf_name(name);
  const GgufTensor& tensor = file_.tensor(stored);
  std::span<const std::byte> bytes = file_.bytes(stored);
  std::vector<std::byte> rows;
  if (is_permuted(config_, stored)) {
    require_input(tensor.shape.rank() > 0 && tensor.shape[0] % config_.head_dim == 0, file_.path().string(), ": ",
                  stored, ": expected heads of ", config_.head_dim, " rows, found ", tensor.shape);
    rows = unpermuted(bytes, tensor.shape[0], config_.head_dim);
    bytes = rows;
  }
  Tensor loaded;
  if (cbq::is_quantised(tensor.type)) {
    std::vector<float> values(std::size_t(tensor.shape.count()));
    dequantise_blocks(tensor.type, bytes, values);
    loaded = from_host<float>(ctx, tensor.shape, DType::f32, values);
    if (weight_dtype_ && *weight_dtype_ != DType::f32)
      loaded = convert(ctx, convert(ctx, loaded, *weight_dtype_), DType::f32);
  } else {
    loaded = from_host_bytes(ctx, tensor.shape, dtype_of(tensor.type), bytes);
  }
  file_.release(stored);
  return loaded;
}

StoredScheme GgufModel::scheme(const std::string& name) const {
  StoredScheme scheme;
  const std::string stored = gguf_name(name + ".weight");
  if (stored.empty() || !file_.contains(stored)) return scheme;
  const GgmlType type = file_.tensor(stored).type;
  if (!cbq::is_quantised(type)) return scheme;
  scheme.wbits = type == GgmlType::q8_0 ? 8 : 4;
  scheme.group_size = kGgmlBlock;
  scheme.symmetry = type == GgmlType::q4_1 ? Symmetry::asymmetric : Symmetry::symmetric;
  return scheme;
}

}  // namespace cbq
