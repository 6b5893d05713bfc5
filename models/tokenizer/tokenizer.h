// Text to token ids and back, for the tokenizer files that LLaMA-like and OPT-like checkpoints carry.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

// What a checkpoint says of its vocabulary beside the encoding itself.
struct VocabularyInfo {
  std::int64_t size = 0;            // 1 + largest id
  std::optional<std::int32_t> bos;  // put before each text; none where the tokenizer adds none (Qwen2)
  std::optional<std::int32_t> eos;
};

// Immutable; encode and decode may be called by several threads at once.
class Tokenizer {
 public:
  // Opens the tokenizer of a GGUF file (models/gguf.h), or what the folder holds, the first of
  //   tokenizer.json            BPE, byte-level (GPT-2, LLaMA-3, Qwen2) or sentencepiece-like (LLaMA)
  //   tokenizer.model           sentencepiece (LLaMA-1, LLaMA-2)
  //   vocab.json + merges.txt   byte-level BPE (OPT, GPT-2)
  // with tokenizer_config.json, special_tokens_map.json and added_tokens.json where they exist. bos() follows
  // `add_bos_token` of tokenizer_config.json; without it the TemplateProcessing of tokenizer.json, on for
  // tokenizer.model and on for vocab.json with OPT's `</s>`. Throws Error{bad_input} for files that are absent, damaged
  // or that use a component which is not supported.
  static std::unique_ptr<Tokenizer> open(const std::filesystem::path& model_folder);

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // No BOS or EOS is added. Bytes that are not UTF-8 are read as U+FFFD, one per maximal ill-formed part. Literal
  // special tokens in the text become their ids, as the reference tokenizers do; tokenizer.model takes them as plain
  // text.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;

  // Valid UTF-8; special tokens are spelled out, but for the control pieces of tokenizer.model, which are dropped.
  // decode(encode(text)) == text where the tokenizer keeps all of the text (no normaliser such as NFC, no unknown
  // token). Throws Error{bad_input} for an id that the vocabulary does not have.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;

  std::int64_t vocab_size() const { return info_.size; }
  std::optional<std::int32_t> bos() const { return info_.bos; }
  std::optional<std::int32_t> eos() const { return info_.eos; }

 protected:
  explicit Tokenizer(VocabularyInfo info) : info_(info) {}

 private:
  VocabularyInfo info_;
};

}  // namespace cbq
