#include "models/tokenizer/pipeline.h"

#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

// Words repeat; a longer one is a text without a pre-tokenizer and does not.
constexpr std::size_t kMaxCachedBytes = 64;
constexpr std::size_t kMaxCachedWords = 1 << 18;

// The ids of the words of one text, each word encoded once.
class WordEncoder {
 public:
  WordEncoder(const Bpe& bpe, std::vector<std::int32_t>& ids) : bpe_(bpe), ids_(ids) {}

  void append(const std::string& word) {
    if (word.size() > kMaxCachedBytes) return bpe_.encode(word, ids_);
    const auto known = cache_.find(word);
    if (known != cache_.end()) {
      ids_.insert(ids_.end(), known->second.begin(), known->second.end());
      return;
    }
    const std::size_t start = ids_.size();
    bpe_.encode(word, ids_);
    if (cache_.size() < kMaxCachedWords) {
      cache_.emplace(word, std::vector(ids_.begin() + static_cast<std::ptrdiff_t>(start), ids_.end()));
    }
  }

 private:
  const Bpe& bpe_;
  std::vector<std::int32_t>& ids_;
  std::unordered_map<std::string, std::vector<std::int32_t>> cache_;
};

}  // namespace

BpeTokenizer::BpeTokenizer(Pipeline pipeline, VocabularyInfo info)
    : Tokenizer(info),
      pipeline_(std::move(pipeline)),
      raw_tokens_(tokens_searched_in(SearchedText::raw)),
      normalized_tokens_(tokens_searched_in(SearchedText::normalized)) {}

std::vector<AddedToken> BpeTokenizer::tokens_searched_in(SearchedText searched) const {
  std::vector<AddedToken> tokens;
  for (AddedToken token : pipeline_.added_tokens) {
    if (token.normalized != (searched == SearchedText::normalized)) continue;
    if (token.normalized) token.content = normalize(token.content);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

std::string BpeTokenizer::normalize(std::string_view text) const {
  const std::size_t limit = growth_limit(text.size());
  std::string out(text);
  for (const NormalizerStep& step : pipeline_.normalizer) out = step(std::move(out), limit);
  return out;
}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  WordEncoder encoder(pipeline_.bpe, ids);
  const std::string source = valid_utf8(text);
  for (const Segment& raw : raw_tokens_.split(source)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    const std::string normal = normalize(raw.text);
    for (const Segment& segment : normalized_tokens_.split(normal)) {
      if (segment.id) {
        ids.push_back(*segment.id);
        continue;
      }
      const bool at_start = raw.text.data() == source.data() && segment.text.data() == normal.data();
      std::vector<Piece> pieces = {{std::string(segment.text), at_start}};
      for (const PreTokenizerStep& step : pipeline_.pre_tokenizer) pieces = step(std::move(pieces));
      for (const Piece& piece : pieces) encoder.append(piece.text);
    }
  }
  return ids;
}

std::string BpeTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  std::size_t bytes = 0;
  for (const std::int32_t id : ids) {
    const std::string* token = pipeline_.bpe.vocabulary().token(id);
    require_input(token != nullptr, "tokenizer: expected ids of the vocabulary of ", vocab_size(), ", found ", id,
                  "; the ids are of another tokenizer");
    bytes += token->size();
    tokens.push_back(*token);
  }
  for (const DecoderStep& step : pipeline_.decoder) tokens = step(std::move(tokens), growth_limit(bytes));
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

}  // namespace cbq::tokenization
