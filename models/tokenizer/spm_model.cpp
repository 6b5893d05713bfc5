#include "models/tokenizer/spm_model.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "models/tokenizer/protobuf.h"

namespace cbq::tokenization {
namespace {

// Field numbers of sentencepiece_model.proto, https://github.com/google/sentencepiece.
constexpr std::uint64_t kPieces = 1, kTrainer = 2, kNormalizer = 3;  // ModelProto
constexpr std::uint64_t kPiece = 1, kScore = 2, kType = 3;           // ModelProto.SentencePiece
constexpr std::uint64_t kModelType = 3, kVocabSize = 4, kByteFallback = 35, kUnk = 40, kBos = 41, kEos = 42,
                        kPad = 43;                                                     // TrainerSpec
constexpr std::uint64_t kName = 1, kCharsMap = 2, kDummyPrefix = 3, kExtraSpaces = 4;  // NormalizerSpec

void read_piece(SpmModel& model, MessageReader fields, const std::string& name) {
  std::string piece;
  float score = 0;
  std::uint64_t type = 1;
  while (const auto field = fields.next()) {
    if (field->number == kPiece && field->type == WireType::bytes) piece = field->content;
    if (field->number == kScore && field->type == WireType::fixed32)
      score = std::bit_cast<float>(little_endian_u32(field->content));
    if (field->number == kType && field->type == WireType::varint) type = field->value;
  }
  require_input(type >= 1 && type <= 6, name, ": piece ", model.pieces.size(), ": expected a type from 1 to 6, found ",
                type, "; fetch the file again");
  model.pieces.push_back(std::move(piece));
  model.scores.push_back(score);
  model.types.push_back(PieceType(type));
}

}  // namespace

SpmModel parse_spm_model(std::string_view bytes, const std::string& name) {
  SpmModel model;
  MessageReader fields(bytes, name);
  while (const auto field = fields.next()) {
    if (field->type != WireType::bytes) continue;
    MessageReader inner(field->content, name);
    if (field->number == kPieces) read_piece(model, inner, name);
    if (field->number != kTrainer && field->number != kNormalizer) continue;
    while (const auto part = inner.next()) {
      const auto value = std::int32_t(std::int64_t(part->value));
      if (field->number == kTrainer) {
        if (part->number == kModelType) model.model_type = value;
        if (part->number == kUnk) model.unk = value;
        if (part->number == kBos) model.bos = value;
        if (part->number == kEos) model.eos = value;
        if (part->number == kPad) model.pad = value;
      } else {
        if (part->number == kCharsMap) model.chars_map = part->content;
        if (part->number == kDummyPrefix) model.add_dummy_prefix = value != 0;
        if (part->number == kExtraSpaces) model.remove_extra_whitespaces = value != 0;
      }
    }
  }
  return model;
}

std::string serialise(const SpmModel& model) {
  MessageWriter proto;
  for (std::size_t i = 0; i < model.pieces.size(); ++i) {
    MessageWriter piece;
    piece.add(kPiece, model.pieces[i]);
    piece.add(kScore, model.scores[i]);
    piece.add(kType, std::int64_t(model.types[i]));
    proto.add(kPieces, piece.bytes());
  }
  MessageWriter trainer;
  trainer.add(kModelType, std::int64_t{model.model_type});
  trainer.add(kVocabSize, std::int64_t(model.pieces.size()));
  trainer.add(kByteFallback, std::int64_t{std::ranges::find(model.types, PieceType::byte) != model.types.end()});
  trainer.add(kUnk, std::int64_t{model.unk});
  trainer.add(kBos, std::int64_t{model.bos});
  trainer.add(kEos, std::int64_t{model.eos});
  trainer.add(kPad, std::int64_t{model.pad});
  proto.add(kTrainer, trainer.bytes());
  MessageWriter normalizer;
  normalizer.add(kName, std::string_view("identity"));
  normalizer.add(kCharsMap, std::string_view(model.chars_map));
  normalizer.add(kDummyPrefix, std::int64_t{model.add_dummy_prefix});
  normalizer.add(kExtraSpaces, std::int64_t{model.remove_extra_whitespaces});
  proto.add(kNormalizer, normalizer.bytes());
  return proto.bytes();
}

}  // namespace cbq::tokenization
