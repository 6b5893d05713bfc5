// Byte-level BPE spells each byte as one printable character (Radford et al. 2019, the GPT-2 encoder).
#pragma once

#include <string>
#include <string_view>

namespace cbq::tokenization {

// GPT-2's regular expression that splits text into words.
inline constexpr std::string_view kGpt2Split =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Bytes 0x21-0x7e, 0xa1-0xac and 0xae-0xff stand for themselves as code points, the others for U+0100 and on, in order.
std::string spell_bytes(std::string_view bytes);

// The inverse, appended to `bytes`; a token with a character that spells no byte (an added token) is taken as it is.
void append_spelled(std::string_view token, std::string& bytes);

}  // namespace cbq::tokenization
