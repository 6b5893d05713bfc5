// The tokenizer inside a GGUF file, as metadata tokenizer.ggml.*: what tokenizer files become, and a Tokenizer again.
// Two models of it are known, by the names llama.cpp gives them:
//   llama  sentencepiece BPE: pieces with scores; two neighbours are joined where their text is a piece, best score
//   first gpt2   byte-level BPE: tokens, merges, and `pre`, the name of the rules that split a text into words
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "models/config.h"
#include "models/tokenizer/spm_model.h"
#include "models/tokenizer/tokenizer.h"

namespace cbq::tokenization {

struct GgufVocabulary {
  std::string model;  // "llama" or "gpt2"
  std::vector<std::string> tokens;
  std::vector<PieceType> types;
  std::optional<std::int32_t> bos, eos, unk, pad;
  bool add_bos = false;  // bos is put before each text
  std::string chat_template;

  // llama
  std::vector<float> scores;
  bool add_space_prefix = true, remove_extra_whitespaces = false;
  std::string chars_map;  // of the normaliser; llama.cpp does not apply it

  // gpt2
  std::string pre;
  std::vector<std::string> merges;  // "left right", in order of rank
};

// From the tokenizer that Tokenizer::open takes in the folder, filled up to the model's vocabulary with unused tokens.
// Errors (bad_input): no tokenizer.json or tokenizer.model; one that llama.cpp would not read as it is meant:
// sentencepiece unigrams, merges that no scores express, a pre-tokenizer without a name.
GgufVocabulary gguf_vocabulary(const std::filesystem::path& folder, const ModelConfig& config);

void add_vocabulary(GgufMetadata& metadata, const GgufVocabulary& vocabulary);
// Errors (bad_input): a key missing, of another type, or of another length than the tokens; ids beyond them; text that
// is not UTF-8; a model but the two.
GgufVocabulary read_vocabulary(const GgufFile& file);

// Errors (bad_input) as the readers of tokenizer files have them; a `pre` that is not known. `name`: of the file.
std::unique_ptr<Tokenizer> make_tokenizer(const GgufVocabulary& vocabulary, const std::string& name);

// What a name of `pre` stands for.
struct PreTokenizer {
  const char* name;
  const char* split;  // regular expression whose matches are the words
  bool ignore_merges;
  bool nfc;  // the text is put into normal form C first, which llama.cpp leaves out
};
// By name, with llama.cpp's other names for the same; nothing when it is not known.
std::optional<PreTokenizer> pre_tokenizer(const std::string& name);
// Every one of them, one name each.
std::vector<PreTokenizer> pre_tokenizers();

}  // namespace cbq::tokenization
