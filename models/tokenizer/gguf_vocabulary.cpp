#include "models/tokenizer/gguf_vocabulary.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/kinds.h"
#include "models/tokenizer/steps.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;

constexpr const char* kPrefix = "tokenizer.ggml.";

// Reads metadata of one tokenizer; the constructor checks nothing.
class Keys {
 public:
  explicit Keys(const GgufFile& file) : file_(file) {}

  template <class T>
  const T& required(const char* key) const {
    const T* value = file_.find<T>(kPrefix + std::string(key));
    require_input(value, where(key), ": expected this key, not found; the file has no tokenizer that is supported");
    return *value;
  }
  template <class T>
  T value_or(const char* key, T absent) const {
    const T* value = file_.find<T>(kPrefix + std::string(key));
    return value ? *value : absent;
  }
  std::optional<std::int32_t> token_id(const char* key, std::size_t tokens) const {
    const std::int64_t* id = file_.find<std::int64_t>(kPrefix + std::string(key));
    if (!id) return std::nullopt;
    require_input(*id >= 0 && *id < std::int64_t(tokens), where(key), ": expected an id of the ", tokens,
                  " tokens, found ", *id);
    return std::int32_t(*id);
  }
  std::vector<std::string> texts(const char* key) const {
    const auto& texts = required<std::vector<std::string>>(key);
    for (const std::string& text : texts)
      require_input(is_valid_utf8(text), where(key), ": expected UTF-8, found ", quoted_text(text));
    return texts;
  }
  std::string where(const char* key) const { return concat(file_.path().string(), ": ", kPrefix, key); }

 private:
  const GgufFile& file_;
};

std::unique_ptr<Tokenizer> sentencepiece(const GgufVocabulary& v, const std::string& name) {
  SpmModel model;
  model.pieces = v.tokens;
  model.scores = v.scores;
  model.types = v.types;
  model.model_type = kSpmBpe;
  model.unk = v.unk.value_or(0);
  // sentencepiece wants exactly one unknown piece; llama.cpp takes files with more.
  std::ranges::replace(model.types, PieceType::unknown, PieceType::control);
  model.types[std::size_t(model.unk)] = PieceType::unknown;
  model.bos = v.bos.value_or(-1);
  model.eos = v.eos.value_or(-1);
  model.pad = v.pad.value_or(-1);
  model.add_dummy_prefix = v.add_space_prefix;
  model.remove_extra_whitespaces = v.remove_extra_whitespaces;
  model.chars_map = v.chars_map;
  TokenizerConfig config;
  config.add_bos_token = v.add_bos;
  return from_sentencepiece(serialise(model), config, name);
}

json vocabulary_object(const GgufVocabulary& v, const std::string& name) {
  json tokens = json::object();
  for (std::size_t id = 0; id < v.tokens.size(); ++id)
    if (v.types[id] != PieceType::unused)
      require_input(tokens.emplace(v.tokens[id], id).second, name, ": expected each token once, found ",
                    quoted_text(v.tokens[id]), " twice");
  return tokens;
}

// As the tokenizer.json that says the same.
std::unique_ptr<Tokenizer> byte_level(const GgufVocabulary& v, const std::string& name) {
  const auto pre = pre_tokenizer(v.pre);
  if (!pre) fail_unsupported(concat(name, ": ", kPrefix, "pre"), v.pre, "llama-bpe, qwen2, gpt-2");
  json added = json::array();
  for (std::size_t id = 0; id < v.tokens.size(); ++id)
    if (v.types[id] == PieceType::control || v.types[id] == PieceType::user_defined)
      added.push_back({{"id", id}, {"content", v.tokens[id]}, {"normalized", false}});
  const json split = {{"type", "Split"}, {"pattern", {{"Regex", pre->split}}}, {"behavior", "Isolated"}},
             spell = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const json file = {{"added_tokens", std::move(added)},
                     {"normalizer", pre->nfc ? json{{"type", "NFC"}} : json()},
                     {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::array({split, spell})}}},
                     {"decoder", {{"type", "ByteLevel"}}},
                     {"model",
                      {{"type", "BPE"},
                       {"ignore_merges", pre->ignore_merges},
                       {"vocab", vocabulary_object(v, name)},
                       {"merges", v.merges}}}};
  TokenizerConfig config;
  config.add_bos_token = v.add_bos;
  if (v.bos) config.bos_token = v.tokens[std::size_t(*v.bos)];
  if (v.eos) config.eos_token = v.tokens[std::size_t(*v.eos)];
  return from_parsed_tokenizer_json(file, config, name);
}

}  // namespace

std::vector<PreTokenizer> pre_tokenizers() {
  return {{"llama-bpe",
           R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
           R"(\s+(?!\S)|\s+)",
           true, false},
          {"qwen2",
           R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|)"
           R"(\s+(?!\S)|\s+)",
           false, true},
          {"gpt-2", kGpt2Split.data(), false, false}};
}

std::optional<PreTokenizer> pre_tokenizer(const std::string& name) {
  const std::string known = name == "llama3" || name == "llama-v3" ? "llama-bpe" : name;
  for (const PreTokenizer& pre : pre_tokenizers())
    if (pre.name == known) return pre;
  return std::nullopt;
}

void add_vocabulary(GgufMetadata& metadata, const GgufVocabulary& v) {
  const auto key = [](const char* name) { return kPrefix + std::string(name); };
  metadata.add(key("model"), v.model);
  metadata.add(key("tokens"), std::span<const std::string>(v.tokens));
  std::vector<std::int32_t> types;
  for (const PieceType type : v.types) types.push_back(std::int32_t(type));
  metadata.add(key("token_type"), std::span<const std::int32_t>(types));
  if (v.model == "llama") {
    metadata.add(key("scores"), std::span<const float>(v.scores));
    metadata.add(key("add_space_prefix"), v.add_space_prefix);
    metadata.add(key("remove_extra_whitespaces"), v.remove_extra_whitespaces);
    if (!v.chars_map.empty())
      metadata.add(key("precompiled_charsmap"),
                   std::span(reinterpret_cast<const std::uint8_t*>(v.chars_map.data()), v.chars_map.size()));
  } else {
    metadata.add(key("pre"), v.pre);
    metadata.add(key("merges"), std::span<const std::string>(v.merges));
  }
  const auto add_id = [&](const char* name, std::optional<std::int32_t> id) {
    if (id) metadata.add(key(name), std::uint32_t(*id));
  };
  add_id("bos_token_id", v.bos);
  add_id("eos_token_id", v.eos);
  add_id("unknown_token_id", v.unk);
  add_id("padding_token_id", v.pad);
  metadata.add(key("add_bos_token"), v.add_bos);
  metadata.add(key("add_eos_token"), false);
  if (!v.chat_template.empty()) metadata.add("tokenizer.chat_template", v.chat_template);
}

GgufVocabulary read_vocabulary(const GgufFile& file) {
  const Keys keys(file);
  GgufVocabulary v;
  v.model = keys.required<std::string>("model");
  require_input(v.model == "llama" || v.model == "gpt2", keys.where("model"), ": llama and gpt2 are supported, found ",
                quoted_text(v.model));
  v.tokens = keys.texts("tokens");
  const std::size_t count = v.tokens.size();
  require_input(count > 0 && count <= INT32_MAX, keys.where("tokens"), ": expected tokens, found ", count);
  const auto types = keys.value_or("token_type", std::vector<std::int64_t>(count, 1));
  require_input(types.size() == count, keys.where("token_type"), ": expected ", count, " of them, found ",
                types.size());
  for (const std::int64_t type : types) {
    require_input(type >= 0 && type <= 6, keys.where("token_type"), ": expected types from 0 to 6, found ", type);
    v.types.push_back(type == 0 ? PieceType::normal : PieceType(type));
  }
  v.bos = keys.token_id("bos_token_id", count);
  v.eos = keys.token_id("eos_token_id", count);
  v.unk = keys.token_id("unknown_token_id", count);
  v.pad = keys.token_id("padding_token_id", count);
  if (v.model == "llama") {
    const auto& scores = keys.required<std::vector<double>>("scores");
    require_input(scores.size() == count, keys.where("scores"), ": expected ", count, " of them, found ",
                  scores.size());
    for (const double score : scores) {
      require_input(std::isfinite(score), keys.where("scores"), ": expected finite numbers, found another");
      v.scores.push_back(float(score));
    }
    v.add_bos = keys.value_or("add_bos_token", true);
    v.add_space_prefix = keys.value_or("add_space_prefix", true);
    v.remove_extra_whitespaces = keys.value_or("remove_extra_whitespaces", false);
    for (const std::int64_t byte : keys.value_or("precompiled_charsmap", std::vector<std::int64_t>()))
      v.chars_map += static_cast<char>(byte);
    return v;
  }
  v.pre = keys.required<std::string>("pre");
  v.merges = keys.texts("merges");
  const auto pre = pre_tokenizer(v.pre);
  v.add_bos = keys.value_or("add_bos_token", pre && std::string_view(pre->name) == "llama-bpe");
  return v;
}

std::unique_ptr<Tokenizer> make_tokenizer(const GgufVocabulary& vocabulary, const std::string& name) {
  return vocabulary.model == "llama" ? sentencepiece(vocabulary, name) : byte_level(vocabulary, name);
}

}  // namespace cbq::tokenization
