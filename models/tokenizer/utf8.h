// The few operations on UTF-8 that tokenizers need.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace cbq::tokenization {

// U+FFFD in place of every maximal ill-formed part (Unicode 15, section 3.9, "substitution of maximal subparts").
std::string valid_utf8(std::string_view bytes);
bool is_valid_utf8(std::string_view bytes);

// Bytes of the character that starts with `lead`, in valid UTF-8: 1 to 4.
constexpr std::size_t char_bytes(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// Characters of valid UTF-8: White_Space, and what regular expressions call a word character.
bool ends_with_word(std::string_view text);
bool starts_with_word(std::string_view text);
std::size_t leading_space_bytes(std::string_view text);
std::size_t trailing_space_bytes(std::string_view text);

enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::string normalized(std::string_view text, NormalForm form);

}  // namespace cbq::tokenization
