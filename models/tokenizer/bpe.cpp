#include "models/tokenizer/bpe.h"

#include <algorithm>
#include <queue>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

constexpr std::int32_t kNone = -1;

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

// A node of the linked list of symbols that a word still consists of. A symbol that was joined to its left neighbour
// keeps its place with id kNone.
struct Symbol {
  std::int32_t id;
  std::int32_t previous;
  std::int32_t next;
};

// A merge of the symbols at `left` and behind it that was possible when it was queued.
struct Candidate {
  std::uint32_t rank;
  std::int32_t left;
  std::int32_t id;
  bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : left > other.left; }
};

std::string byte_token(int byte) {
  constexpr std::string_view hex = "0123456789ABCDEF";
  return concat("<0x", hex[static_cast<std::size_t>(byte / 16)], hex[static_cast<std::size_t>(byte % 16)], ">");
}

}  // namespace

void Vocabulary::add(const std::string& token, std::int32_t id, const std::string& where) {
  const auto [entry, is_new] = ids_.try_emplace(token, id);
  require_input(entry->second == id, where, ": expected one id for ", quoted_text(token), ", found ", entry->second,
                " and ", id, "; repair the file");
  if (!is_new) return;
  const auto [other, is_free] = tokens_.try_emplace(id, &entry->first);
  require_input(is_free, where, ": expected one token for id ", id, ", found ", quoted_text(*other->second), " and ",
                quoted_text(token), "; repair the file");
  size_ = std::max(size_, std::int64_t{id} + 1);
}

std::optional<std::int32_t> Vocabulary::find(std::string_view token) const {
  const auto entry = ids_.find(token);
  return entry == ids_.end() ? std::nullopt : std::optional(entry->second);
}

const std::string* Vocabulary::token(std::int32_t id) const {
  const auto entry = tokens_.find(id);
  return entry == tokens_.end() ? nullptr : entry->second;
}

Bpe::Bpe(Vocabulary vocabulary, const MergeList& merges, BpeOptions options, const std::string& where)
    : vocabulary_(std::move(vocabulary)), options_(options) {
  if (options_.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[static_cast<std::size_t>(byte)] = vocabulary_.find(byte_token(byte));
    }
  }
  merges_.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const auto id_of = [&](const std::string& token) {
      const std::optional<std::int32_t> id = vocabulary_.find(token);
      require_input(id.has_value(), where, ": merge ", rank, ": expected tokens of the vocabulary, found ",
                    quoted_text(token), "; the vocabulary and the merges are not of one tokenizer");
      return *id;
    };
    const std::int32_t left_id = id_of(left), right_id = id_of(right);
    merges_.insert_or_assign(pair_key(left_id, right_id), Merge{static_cast<std::uint32_t>(rank), id_of(left + right)});
  }
}

const Bpe::Merge* Bpe::merge_of(std::int32_t left, std::int32_t right) const {
  const auto entry = merges_.find(pair_key(left, right));
  return entry == merges_.end() ? nullptr : &entry->second;
}

std::vector<std::int32_t> Bpe::characters(std::string_view word) const {
  std::vector<std::int32_t> ids;
  ids.reserve(word.size());
  bool after_unk = false;
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, char_bytes(word[at]));
    at += character.size();
    if (const std::optional<std::int32_t> id = vocabulary_.find(character)) {
      ids.push_back(*id);
      after_unk = false;
      continue;
    }
    const auto byte_id = [&](char byte) { return byte_ids_[static_cast<unsigned char>(byte)]; };
    if (std::all_of(character.begin(), character.end(), [&](char byte) { return byte_id(byte).has_value(); })) {
      for (const char byte : character) ids.push_back(*byte_id(byte));
      after_unk = false;
    } else if (options_.unk) {
      if (!(after_unk && options_.fuse_unk)) ids.push_back(*options_.unk);
      after_unk = true;
    }
  }
  return ids;
}

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (const std::optional<std::int32_t> id = vocabulary_.find(word)) {
      ids.push_back(*id);
      return;
    }
  }
  const std::vector<std::int32_t> start = characters(word);
  const auto count = static_cast<std::int32_t>(start.size());
  std::vector<Symbol> symbols(start.size());
  const auto symbol = [&](std::int32_t at) -> Symbol& { return symbols[static_cast<std::size_t>(at)]; };
  for (std::int32_t i = 0; i < count; ++i) {
    symbol(i) = {start[static_cast<std::size_t>(i)], i - 1, i + 1 < count ? i + 1 : kNone};
  }

  std::vector<Candidate> possible;
  for (std::int32_t i = 0; i + 1 < count; ++i) {
    if (const Merge* merge = merge_of(symbol(i).id, symbol(i + 1).id)) possible.push_back({merge->rank, i, merge->id});
  }
  std::priority_queue queue(std::greater<Candidate>{}, std::move(possible));
  const auto offer = [&](std::int32_t left) {
    if (left == kNone || symbol(left).next == kNone) return;
    const Merge* merge = merge_of(symbol(left).id, symbol(symbol(left).next).id);
    if (merge != nullptr) queue.push({merge->rank, left, merge->id});
  };

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbol(best.left);
    if (left.id == kNone || left.next == kNone) continue;
    Symbol& right = symbol(left.next);
    // One of the two may have changed since the candidate was queued.
    const Merge* merge = merge_of(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    right.id = kNone;
    left.next = right.next;
    if (left.next != kNone) symbol(left.next).previous = best.left;
    offer(left.previous);
    offer(best.left);
  }

  for (std::int32_t i = count > 0 ? 0 : kNone; i != kNone; i = symbol(i).next) ids.push_back(symbol(i).id);
}

}  // namespace cbq::tokenization
