#include "models/tokenizer/byte_level.h"

#include <array>

#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

constexpr int kLargestPoint = 0x143;  // 0x100 + 68 bytes that have no printable Latin-1 character - 1

struct Table {
  std::array<std::string, 256> character;
  std::array<int, kLargestPoint + 1> byte;

  Table() {
    byte.fill(-1);
    int next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      const int point = printable ? b : next++;
      byte[static_cast<std::size_t>(point)] = b;
      std::string& text = character[static_cast<std::size_t>(b)];
      if (point >= 0x80) text += static_cast<char>(0xc0 | point >> 6);
      text += static_cast<char>(point < 0x80 ? point : (0x80 | (point & 0x3f)));
    }
  }
};

const Table& table() {
  static const Table constants;
  return constants;
}

}  // namespace

std::string spell_bytes(std::string_view bytes) {
  std::string spelled;
  spelled.reserve(bytes.size() + bytes.size() / 2);
  for (const char byte : bytes) spelled += table().character[static_cast<unsigned char>(byte)];
  return spelled;
}

void append_spelled(std::string_view token, std::string& bytes) {
  const std::size_t start = bytes.size();
  for (std::size_t at = 0; at < token.size();) {
    const std::size_t length = char_bytes(token[at]);
    const int lead = static_cast<unsigned char>(token[at]);
    const int point = length == 1 ? lead : (lead & 0x1f) << 6 | (static_cast<unsigned char>(token[at + 1]) & 0x3f);
    const int byte = length <= 2 && point <= kLargestPoint ? table().byte[static_cast<std::size_t>(point)] : -1;
    if (byte < 0) {
      bytes.resize(start);
      bytes += token;
      return;
    }
    bytes += static_cast<char>(byte);
    at += length;
  }
}

}  // namespace cbq::tokenization
