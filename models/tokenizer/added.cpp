#include "models/tokenizer/added.h"

#include <utility>

#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

constexpr std::int32_t kNoToken = -1;

std::uint64_t edge(std::uint32_t node, char byte) {
  return std::uint64_t{node} << 8 | static_cast<unsigned char>(byte);
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), token_at_node_{kNoToken} {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    if (tokens_[i].content.empty()) continue;  // a normaliser may leave nothing of a token
    std::uint32_t node = 0;
    for (const char byte : tokens_[i].content) {
      const auto [child, is_new] =
          children_.try_emplace(edge(node, byte), static_cast<std::uint32_t>(token_at_node_.size()));
      if (is_new) token_at_node_.push_back(kNoToken);
      node = child->second;
    }
    if (token_at_node_[node] == kNoToken) token_at_node_[node] = static_cast<std::int32_t>(i);
  }
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, std::size_t at) const {
  const AddedToken* longest = nullptr;
  std::uint32_t node = 0;
  for (; at < text.size(); ++at) {
    const auto child = children_.find(edge(node, text[at]));
    if (child == children_.end()) break;
    node = child->second;
    const std::int32_t token = token_at_node_[node];
    if (token != kNoToken) longest = &tokens_[static_cast<std::size_t>(token)];
  }
  return longest;
}

std::vector<Segment> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Segment> segments;
  std::size_t done = 0;
  const auto plain_until = [&](std::size_t end) {
    if (done < end) segments.push_back({text.substr(done, end - done), std::nullopt});
  };
  for (std::size_t at = 0; at < text.size() && !children_.empty();) {
    const AddedToken* token = longest_at(text, at);
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + token->content.size();
    at = end;
    if (begin < done) continue;  // white space that the token before it took
    if (token->single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token->lstrip) begin -= trailing_space_bytes(text.substr(done, begin - done));
    if (token->rstrip) end += leading_space_bytes(text.substr(end));
    plain_until(begin);
    segments.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  plain_until(text.size());
  return segments;
}

}  // namespace cbq::tokenization
