// The decoders: from tokens back to text.
#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/files.h"
#include "models/tokenizer/steps.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;
using Tokens = std::vector<std::string>;

constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

std::string joined(const Tokens& tokens) {
  std::string out;
  for (const std::string& token : tokens) out += token;
  return out;
}

std::optional<int> hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return std::nullopt;
}

// "<0x41>" -> 0x41
std::optional<char> byte_of(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  const std::optional<int> high = hex_digit(token[3]), low = hex_digit(token[4]);
  if (!high || !low) return std::nullopt;
  return static_cast<char>(*high * 16 + *low);
}

// Runs of byte tokens become their text, or one U+FFFD per byte where they are not UTF-8.
Tokens byte_fallback(const Tokens& tokens, std::size_t) {
  Tokens out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (is_valid_utf8(bytes)) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), std::string(kReplacementCharacter));
    }
    bytes.clear();
  };
  for (const std::string& token : tokens) {
    if (const std::optional<char> byte = byte_of(token)) {
      bytes += *byte;
      continue;
    }
    flush();
    out.push_back(token);
  }
  flush();
  return out;
}

Tokens byte_level(const Tokens& tokens, std::size_t) {
  std::string bytes;
  for (const std::string& token : tokens) append_spelled(token, bytes);
  return {valid_utf8(bytes)};
}

Tokens fuse(const Tokens& tokens, std::size_t) {
  return {joined(tokens)};
}

DecoderStep replace_step(const json& component, const std::string& where) {
  const std::string pattern = required_text(member(component, "pattern", where), "String", where);
  require_input(!pattern.empty(), where, ": expected a pattern, found an empty string; repair the file");
  return [pattern, content = required_text(component, "content", where)](Tokens tokens, std::size_t limit) {
    for (std::string& token : tokens) {
      token = replace_all(token, pattern, content, limit);
      limit -= std::min(limit, token.size());
    }
    return tokens;
  };
}

std::size_t count_of(const json& component, const char* key, const std::string& where) {
  return static_cast<std::size_t>(token_id(member(component, key, where), concat(where, ": ", key)));
}

// Removes up to `start` times `content` from the front of each token and up to `stop` times from its end.
DecoderStep strip_step(const json& component, const std::string& where) {
  const std::string content = required_text(component, "content", where);
  require_input(!content.empty(), where, ": Strip: expected a character, found an empty string; repair the file");
  return [content, start = count_of(component, "start", where), stop = count_of(component, "stop", where)](
             Tokens tokens, std::size_t) {
    for (std::string& token : tokens) {
      std::string_view rest = token;
      for (std::size_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
      for (std::size_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
      token = std::string(rest);
    }
    return tokens;
  };
}

// The replacement characters become spaces; the one that the pre-tokenizer put in front goes.
DecoderStep metaspace_step(const json& component, const std::string& where) {
  const std::string mark = required_text(component, "replacement", where);
  require_input(!mark.empty() && char_bytes(mark[0]) == mark.size(), where,
                ": \"replacement\": expected one character, found ", quoted_text(mark), "; repair the file");
  const bool legacy_prefix = flag(component, "add_prefix_space", where).value_or(true);
  const bool prefix = text(component, "prepend_scheme", where).value_or(legacy_prefix ? "always" : "never") != "never";
  return [mark, prefix](Tokens tokens, std::size_t limit) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i == 0 && prefix && tokens[i].starts_with(mark)) tokens[i].erase(0, mark.size());
      tokens[i] = replace_all(tokens[i], mark, " ", limit);
    }
    return tokens;
  };
}

}  // namespace

std::vector<DecoderStep> decoder_steps(const json& component, const std::string& where) {
  // Without a decoder the reference joins the tokens with spaces.
  if (component.is_null()) {
    return {[](Tokens tokens, std::size_t) {
      for (std::size_t i = 1; i < tokens.size(); ++i) tokens[i].insert(0, 1, ' ');
      return tokens;
    }};
  }
  static const std::map<std::string, Tokens (*)(const Tokens&, std::size_t)> kPlain = {
      {"ByteLevel", byte_level}, {"ByteFallback", byte_fallback}, {"Fuse", fuse}};
  std::vector<DecoderStep> steps;
  for (const json& part : flat_components(component, "decoders", where)) {
    const std::string type = required_text(part, "type", where);
    if (const auto plain = kPlain.find(type); plain != kPlain.end()) {
      steps.push_back(plain->second);
    } else if (type == "Replace") {
      steps.push_back(replace_step(part, where));
    } else if (type == "Strip") {
      steps.push_back(strip_step(part, where));
    } else if (type == "Metaspace") {
      steps.push_back(metaspace_step(part, where));
    } else {
      fail_unsupported(where, type, "Sequence, ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip");
    }
  }
  return steps;
}

}  // namespace cbq::tokenization
