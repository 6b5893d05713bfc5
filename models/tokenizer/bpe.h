// Byte-pair encoding of one word: the core that vocab.json + merges.txt and tokenizer.json share.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cbq::tokenization {

// Tokens and ids, one to one. Ids may have gaps. Move-only: the two maps share the tokens' text.
class Vocabulary {
 public:
  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  // Throws Error{bad_input} when another token has the id. Adding the same pair again is allowed.
  void add(const std::string& token, std::int32_t id, const std::string& where);

  std::optional<std::int32_t> find(std::string_view token) const;
  const std::string* token(std::int32_t id) const;  // null for an id that no token has
  std::int64_t size() const { return size_; }       // 1 + largest id

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::unordered_map<std::string, std::int32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<std::int32_t, const std::string*> tokens_;
  std::int64_t size_ = 0;
};

struct BpeOptions {
  std::optional<std::int32_t> unk;  // stands for a character without a token; without it the character is dropped
  bool fuse_unk = false;            // one unk for a run of them
  bool byte_fallback = false;       // a character without a token becomes its bytes' tokens "<0x00>" to "<0xFF>"
  bool ignore_merges = false;       // a word that is a token is not built from merges
};

using MergeList = std::vector<std::pair<std::string, std::string>>;

class Bpe {
 public:
  // Merge i joins two tokens of the vocabulary to a third one of it, with rank i; Error{bad_input} where one is absent.
  Bpe(Vocabulary vocabulary, const MergeList& merges, BpeOptions options, const std::string& where);

  // Appends the ids of `word` (valid UTF-8): its characters, joined in order of rank and then of position, as long as a
  // merge applies (Sennrich, Haddow and Birch 2016, algorithm 1). O(n log n) for n characters.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    std::uint32_t rank;
    std::int32_t id;
  };
  struct PairHash {
    std::size_t operator()(std::uint64_t pair) const { return (pair ^ (pair >> 29)) * 0x9e3779b97f4a7c15u; }
  };

  std::vector<std::int32_t> characters(std::string_view word) const;
  const Merge* merge_of(std::int32_t left, std::int32_t right) const;

  Vocabulary vocabulary_;
  BpeOptions options_;
  std::array<std::optional<std::int32_t>, 256> byte_ids_;
  std::unordered_map<std::uint64_t, Merge, PairHash> merges_;
};

}  // namespace cbq::tokenization
