// What a sentencepiece model holds, as numbers and text: what a GGUF file keeps of it, and what makes a model again.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cbq::tokenization {

// Kinds of pieces, with the numbers that sentencepiece and GGUF files share.
enum class PieceType : std::int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct SpmModel {
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<PieceType> types;
  std::int32_t model_type = 1;                       // of sentencepiece: 1 unigram, 2 BPE
  std::int32_t unk = 0, bos = 1, eos = 2, pad = -1;  // -1: none
  bool add_dummy_prefix = true, remove_extra_whitespaces = true;
  std::string chars_map;  // compiled rules of the normaliser; empty: identity
};

inline constexpr std::int32_t kSpmBpe = 2;

// The parts of a serialised ModelProto that check_sentencepiece_model has accepted. Throws Error{bad_input}.
SpmModel parse_spm_model(std::string_view model, const std::string& name);
// A ModelProto with these parts. Its pieces fall back to bytes when it has byte pieces.
std::string serialise(const SpmModel& model);

}  // namespace cbq::tokenization
