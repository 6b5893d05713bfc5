// The small files beside a tokenizer, and the reading of JSON members with errors that name the place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace cbq::tokenization {

// A token that is found in the text before the text is split into words. The flags have the meaning that the
// `added_tokens` of tokenizer.json give them.
struct AddedToken {
  std::string content;
  std::int32_t id = -1;
  bool single_word = false;  // only between characters that are not word characters
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
  bool normalized = false;   // looked for in the normalised text
};

// tokenizer_config.json, special_tokens_map.json and added_tokens.json, the first file that names a key wins.
struct TokenizerConfig {
  std::optional<bool> add_bos_token;
  std::optional<bool> add_prefix_space;
  std::optional<std::string> bos_token, eos_token, unk_token, pad_token;
  std::vector<AddedToken> added_tokens;  // with ids
};

// Members of an object. `where` names file and place for the error. `flag`, `text`: a default for absent and null.
const nlohmann::json& member(const nlohmann::json& object, const char* key, const std::string& where);
std::optional<bool> flag(const nlohmann::json& object, const char* key, const std::string& where);
std::optional<std::string> text(const nlohmann::json& object, const char* key, const std::string& where);
std::string required_text(const nlohmann::json& object, const char* key, const std::string& where);

// A token id: an integer in [0, 2^31 - 1).
std::int32_t token_id(const nlohmann::json& value, const std::string& where);

// One entry of `added_tokens` or `added_tokens_decoder`, without its id.
AddedToken added_token(const nlohmann::json& entry, const std::string& where);

// Adds what the file says to `config`. `name` is the file's own name, which decides how it is read.
void merge_config(TokenizerConfig& config, const nlohmann::json& file, const std::string& name);

// The files of the folder that exist, merged.
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

}  // namespace cbq::tokenization
