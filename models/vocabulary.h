// Makes the tokenizer files of a model that is trained from scratch.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/config.h"

namespace cbq {

// Entries before the learned ones: 256 bytes, so that every text can be spelled, and the special tokens
// <unk>, <s> (llama) or <s>, <pad>, </s>, <unk> (opt, with its ids).
constexpr std::int64_t smallest_vocabulary(Family family) {
  return 256 + (family == Family::opt ? 4 : 2);
}
// The token before each text. A text ends where the next one begins, so it ends a text too.
constexpr std::int32_t first_token(Family family) {
  return family == Family::opt ? 2 : 1;
}

// A serialised sentencepiece model of kind BPE with byte fallback, trained by the library: tokenizer.model of LLaMA.
// Error bad_input: what the library refuses, such as texts with too few different words for `vocab` entries.
std::string train_sentencepiece(const std::vector<std::string>& texts, std::int64_t vocab);

// Byte-level BPE: merges of the most frequent pair of neighbours within the words of GPT-2's split, ties by the smaller
// pair in byte order, until there are `vocab` entries (Sennrich, Haddow and Birch 2016, algorithm 1). Error bad_input:
// fewer than smallest_vocabulary, or more than the texts have pairs for.
struct ByteLevelBpe {
  std::vector<std::string> tokens;  // in order of their ids
  std::vector<std::pair<std::string, std::string>> merges;
};
ByteLevelBpe train_byte_level_bpe(const std::vector<std::string>& texts, std::int64_t vocab);

// The family's tokenizer, trained on the texts, as Tokenizer::open and transformers read it: tokenizer.model or
// vocab.json with merges.txt, and tokenizer_config.json.
void write_vocabulary(const std::filesystem::path& folder, Family family, const std::vector<std::string>& texts,
                      std::int64_t vocab, std::int64_t max_positions);

}  // namespace cbq
