#include "models/tokenizer/files.h"

#include <charconv>
#include <limits>
#include <unordered_set>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;

// "bos_token": "</s>" or {"content": "</s>", ...}
std::optional<std::string> token_text(const json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found != object.end() && found->is_object()) return required_text(*found, "content", concat(where, ": ", key));
  return text(object, key, where);
}

template <class T>
void keep_first(std::optional<T>& value, std::optional<T> other) {
  if (!value) value = std::move(other);
}

// Takes tokens whose content is not there yet.
class TokenCollector {
 public:
  explicit TokenCollector(std::vector<AddedToken>& tokens) : tokens_(tokens) {
    for (const AddedToken& token : tokens) known_.insert(token.content);
  }
  void add(AddedToken token) {
    if (known_.insert(token.content).second) tokens_.push_back(std::move(token));
  }

 private:
  std::vector<AddedToken>& tokens_;
  std::unordered_set<std::string> known_;
};

}  // namespace

const json& member(const json& object, const char* key, const std::string& where) {
  require_input(object.is_object(), where, ": expected an object, found ", object.type_name(), "; repair the file");
  const auto found = object.find(key);
  require_input(found != object.end(), where, ": expected the key \"", key, "\", found none; repair the file");
  return *found;
}

std::optional<bool> flag(const json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  require_input(found->is_boolean(), where, ": \"", key, "\": expected true or false, found ", found->type_name(),
                "; repair the file");
  return found->get<bool>();
}

std::optional<std::string> text(const json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return std::nullopt;
  require_input(found->is_string(), where, ": \"", key, "\": expected a string, found ", found->type_name(),
                "; repair the file");
  return found->get<std::string>();
}

std::string required_text(const json& object, const char* key, const std::string& where) {
  member(object, key, where);
  std::optional<std::string> value = text(object, key, where);
  require_input(value.has_value(), where, ": \"", key, "\": expected a string, found null; repair the file");
  return *value;
}

std::int32_t token_id(const json& value, const std::string& where) {
  constexpr std::int64_t limit = std::numeric_limits<std::int32_t>::max();
  // Unsigned numbers above 2^63 would wrap to negative ones.
  const bool fits = value.is_number_unsigned()  ? value.get<std::uint64_t>() < static_cast<std::uint64_t>(limit)
                    : value.is_number_integer() ? value.get<std::int64_t>() >= 0 && value.get<std::int64_t>() < limit
                                                : false;
  require_input(fits, where, ": expected a token id from 0 to ", limit - 1, ", found ",
                value.is_number() ? value.dump() : value.type_name(), "; repair the file");
  return value.get<std::int32_t>();
}

AddedToken added_token(const json& entry, const std::string& where) {
  AddedToken token;
  token.content = required_text(entry, "content", where);
  require_input(!token.content.empty(), where, ": expected a token, found an empty \"content\"; repair the file");
  token.single_word = flag(entry, "single_word", where).value_or(false);
  token.lstrip = flag(entry, "lstrip", where).value_or(false);
  token.rstrip = flag(entry, "rstrip", where).value_or(false);
  token.normalized = flag(entry, "normalized", where).value_or(!flag(entry, "special", where).value_or(false));
  return token;
}

void merge_config(TokenizerConfig& config, const json& file, const std::string& name) {
  require_input(file.is_object(), name, ": expected an object, found ", file.type_name(), "; repair the file");
  TokenCollector added(config.added_tokens);
  if (name.ends_with("added_tokens.json")) {
    for (const auto& [content, id] : file.items()) {
      require_input(!content.empty(), name, ": expected a token, found an empty one; repair the file");
      AddedToken token;
      token.content = content;
      token.id = token_id(id, concat(name, ": ", quoted_text(content)));
      added.add(std::move(token));
    }
    return;
  }
  keep_first(config.add_bos_token, flag(file, "add_bos_token", name));
  keep_first(config.add_prefix_space, flag(file, "add_prefix_space", name));
  keep_first(config.bos_token, token_text(file, "bos_token", name));
  keep_first(config.eos_token, token_text(file, "eos_token", name));
  keep_first(config.unk_token, token_text(file, "unk_token", name));
  keep_first(config.pad_token, token_text(file, "pad_token", name));
  const auto decoder = file.find("added_tokens_decoder");
  if (decoder == file.end() || decoder->is_null()) return;
  const std::string where = concat(name, ": added_tokens_decoder");
  require_input(decoder->is_object(), where, ": expected an object, found ", decoder->type_name(), "; repair the file");
  for (const auto& [key, entry] : decoder->items()) {
    AddedToken token = added_token(entry, concat(where, ": ", quoted_text(key)));
    std::int64_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    require_input(parsed.ec == std::errc() && parsed.ptr == key.data() + key.size(), where,
                  ": expected ids as keys, found ", quoted_text(key), "; repair the file");
    token.id = token_id(id, where);
    added.add(std::move(token));
  }
}

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig config;
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    const std::filesystem::path file = folder / name;
    std::error_code error;
    if (std::filesystem::exists(file, error)) {
      merge_config(config, parse_json_file(file), file.string());
    }
  }
  return config;
}

}  // namespace cbq::tokenization
