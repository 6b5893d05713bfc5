#include "models/tokenizer/utf8.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "core/error.h"

namespace cbq::tokenization {
namespace {

struct Step {
  std::size_t bytes;
  bool valid;
};

// The character at text[at], or the longest start of one (at least a byte). Table 3-7 of the Unicode standard.
Step step(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(at);
  if (lead < 0x80) return {1, true};
  if (lead < 0xc2 || lead > 0xf4) return {1, false};
  const std::size_t length = char_bytes(text[at]);
  unsigned low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < length; ++i) {
    if (at + i >= text.size() || byte(at + i) < low || byte(at + i) > high) return {i, false};
    low = 0x80;
    high = 0xbf;
  }
  return {length, true};
}

utf8proc_int32_t code_point(std::string_view text, std::size_t at) {
  utf8proc_int32_t point = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                   static_cast<utf8proc_ssize_t>(text.size() - at), &point);
  return point;
}

std::size_t last_char(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

bool is_space(utf8proc_int32_t point) {
  if ((point >= 0x09 && point <= 0x0d) || point == 0x85) return true;
  const utf8proc_category_t category = utf8proc_category(point);
  return category == UTF8PROC_CATEGORY_ZS || category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

// \w of Unicode Technical Standard 18: letters, marks, digits, connectors and the two join controls.
bool is_word(utf8proc_int32_t point) {
  if (point == 0x200c || point == 0x200d) return true;
  const utf8proc_category_t category = utf8proc_category(point);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) || category == UTF8PROC_CATEGORY_PC;
}

}  // namespace

std::string valid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const Step next = step(bytes, at);
    text += next.valid ? bytes.substr(at, next.bytes) : std::string_view("\xef\xbf\xbd");
    at += next.bytes;
  }
  return text;
}

bool is_valid_utf8(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const Step next = step(bytes, at);
    if (!next.valid) return false;
    at += next.bytes;
  }
  return true;
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(code_point(text, last_char(text)));
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(code_point(text, 0));
}

std::size_t leading_space_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_space(code_point(text, at))) at += char_bytes(text[at]);
  return at;
}

std::size_t trailing_space_bytes(std::string_view text) {
  std::size_t rest = text.size();
  while (rest > 0) {
    const std::size_t at = last_char(text.substr(0, rest));
    if (!is_space(code_point(text, at))) break;
    rest = at;
  }
  return text.size() - rest;
}

std::string normalized(std::string_view text, NormalForm form) {
  const bool composes = form == NormalForm::nfc || form == NormalForm::nfkc;
  const bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const int options =
      UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compatible ? UTF8PROC_COMPAT : 0);
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &mapped, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
  require(size >= 0, "tokenizer: Unicode normalisation of a text of ", text.size(), " bytes: ", utf8proc_errmsg(size));
  return std::string(reinterpret_cast<const char*>(mapped), static_cast<std::size_t>(size));
}

}  // namespace cbq::tokenization
