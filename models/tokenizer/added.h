// Finds added tokens in a text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/tokenizer/files.h"

namespace cbq::tokenization {

// A stretch of text: an added token (with id) or what lies between them.
struct Segment {
  std::string_view text;
  std::optional<std::int32_t> id;
};

// Immutable set of tokens, each searched by its `content`.
class AddedTokenMatcher {
 public:
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // The segments of `text` (valid UTF-8) from left to right, without empty ones. The leftmost match wins, of those the
  // longest; the flags of a token are looked at afterwards.
  std::vector<Segment> split(std::string_view text) const;

 private:
  const AddedToken* longest_at(std::string_view text, std::size_t at) const;

  std::vector<AddedToken> tokens_;
  // A trie over the contents: (node, byte) -> node, and the token that ends in a node.
  std::unordered_map<std::uint64_t, std::uint32_t> children_;
  std::vector<std::int32_t> token_at_node_;
};

}  // namespace cbq::tokenization
