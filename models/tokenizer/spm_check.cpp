#include "models/tokenizer/spm_check.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <unordered_set>

#include "core/error.h"
#include "models/tokenizer/protobuf.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

// Field numbers of sentencepiece_model.proto.
constexpr std::uint64_t kPieces = 1, kNormalizer = 3, kDenormalizer = 5;  // ModelProto
constexpr std::uint64_t kPiece = 1, kScore = 2;                           // ModelProto.SentencePiece
constexpr std::uint64_t kCharsMap = 2;                                    // NormalizerSpec

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
  MessageReader fields(model, name);
  while (const auto field = fields.next()) {
    if (field->type != WireType::bytes) continue;
    MessageReader inner(field->content, name);
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
