#include "models/tokenizer/spm_check.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <unordered_set>

#include "core/error.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr std::uint64_t kPieces = 1, kNormalizer = 3, kDenormalizer = 5;  // ModelProto
constexpr std::uint64_t kPiece = 1, kScore = 2;                           // ModelProto.SentencePiece
constexpr std::uint64_t kCharsMap = 2;                                    // NormalizerSpec

enum class WireType { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct Field {
  std::uint64_t number;
  WireType type;
  std::string_view content;  // empty for a varint
};

std::uint32_t little_endian_u32(std::string_view bytes) {
  static_assert(std::endian::native == std::endian::little);
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// The fields of one message of the protocol buffers' wire format, one after the other.
class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const std::uint64_t tag = varint();
    const std::uint64_t type = tag & 7;
    if (type == 0) {
      varint();
      return Field{tag >> 3, WireType::varint, {}};
    }
    if (type == 1) return Field{tag >> 3, WireType::fixed64, take(8)};
    if (type == 2) return Field{tag >> 3, WireType::bytes, take(varint())};
    if (type == 5) return Field{tag >> 3, WireType::fixed32, take(4)};
    fail_damaged();
  }

 private:
  [[noreturn]] void fail_damaged() const {
    fail(ErrorKind::bad_input, name_, ": expected a sentencepiece model, found a damaged or different file with ",
         rest_.size(), " bytes that cannot be read; fetch the file again");
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    fail_damaged();
  }

  std::string_view take(std::uint64_t bytes) {
    if (bytes > rest_.size()) fail_damaged();
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  std::string_view rest_;
  const std::string& name_;
};

// u32 size of the trie, the trie, then strings that end in NUL. A unit of the trie is a Darts-clone double-array unit:
// bit 31 a leaf with a position among the strings, otherwise bit 8 "has a leaf" and the offset of the children.
bool is_sound_chars_map(std::string_view map) {
  if (map.empty()) return true;
  if (map.size() < 4) return false;
  const std::uint32_t trie_bytes = little_endian_u32(map);
  if (trie_bytes % 1024 != 0 || trie_bytes == 0 || trie_bytes > map.size() - 4) return false;
  const std::string_view trie = map.substr(4, trie_bytes);
  const std::string_view strings = map.substr(4 + trie_bytes);
  if (strings.empty() || strings.back() != '\0' || !is_valid_utf8(strings)) return false;
  const std::uint32_t count = trie_bytes / 4;  // a multiple of 256: a child's position stays in its block
  const auto unit = [&](std::uint32_t at) { return little_endian_u32(trie.substr(std::size_t{at} * 4)); };
  for (std::uint32_t at = 0; at < count; ++at) {
    const std::uint32_t value = unit(at);
    if (value >> 31) continue;
    const std::uint32_t child = at ^ (value >> 10 << ((value & 0x200) >> 6));
    if (child >= count) return false;
    if ((value & 0x100) != 0 && (unit(child) & 0x7fffffff) >= strings.size()) return false;
  }
  return true;
}

}  // namespace

void check_sentencepiece_model(std::string_view model, const std::string& name) {
  std::unordered_set<std::string_view> pieces;
  Message fields(model, name);
  while (const auto field = fields.next()) {
    if (field->type != WireType::bytes) continue;
    Message inner(field->content, name);
    if (field->number == kPieces) {
      std::string_view piece;
      while (const auto part = inner.next()) {
        if (part->number == kPiece && part->type == WireType::bytes) piece = part->content;
        if (part->number == kScore && part->type == WireType::fixed32) {
          require_input(std::isfinite(std::bit_cast<float>(little_endian_u32(part->content))), name, ": piece ",
                        pieces.size(), ": expected a finite score, found another; fetch the file again");
        }
      }
      const bool is_text = !piece.empty() && is_valid_utf8(piece) && piece.find('\0') == std::string_view::npos;
      require_input(is_text && pieces.insert(piece).second, name, ": piece ", pieces.size(),
                    ": expected a text that no other piece has, found ", is_text ? "a second one" : "no UTF-8 text",
                    "; fetch the file again");
    } else if (field->number == kNormalizer || field->number == kDenormalizer) {
      while (const auto part = inner.next()) {
        require_input(part->number != kCharsMap || part->type != WireType::bytes || is_sound_chars_map(part->content),
                      name, ": expected a normaliser with a character map, found a damaged one; fetch the file again");
      }
    }
  }
  require_input(!pieces.empty(), name, ": expected a sentencepiece model, found one without pieces; fetch it again");
}

}  // namespace cbq::tokenization
