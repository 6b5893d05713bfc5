#include "models/vocabulary.h"

#include <sentencepiece_trainer.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_set>
#include <utility>

#include "core/files.h"
#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/regex.h"
#include "models/tokenizer/utf8.h"

namespace cbq {
namespace {

using nlohmann::ordered_json;
using Pair = std::pair<std::string, std::string>;

// The library reads its texts line by line.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>& texts) {
    for (const std::string& text : texts)
      for (std::size_t begin = 0; begin < text.size();) {
        const std::size_t end = std::min(text.find('\n', begin), text.size());
        if (end > begin) lines_.push_back(text.substr(begin, end - begin));
        begin = end + 1;
      }
  }
  bool done() const override { return next_ == lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> lines_;
  std::size_t next_ = 0;
};

// A different word of the texts, as the tokens it is made of so far.
struct Word {
  std::vector<std::string> tokens;
  std::int64_t count;
};

std::vector<Word> spelled_words(const std::vector<std::string>& texts) {
  const tokenization::Regex split(tokenization::kGpt2Split, "vocabulary");
  std::map<std::string, std::int64_t> counts;
  for (const std::string& given : texts) {
    const std::string text = tokenization::valid_utf8(given);
    for (const auto& [begin, end] : split.matches(text)) ++counts[text.substr(begin, end - begin)];
  }
  std::vector<Word> words;
  for (const auto& [text, count] : counts) {
    Word& word = words.emplace_back(Word{{}, count});
    for (const char byte : text) word.tokens.push_back(tokenization::spell_bytes(std::string_view(&byte, 1)));
  }
  return words;
}

// The most frequent pair of neighbours, the smallest of several; count 0 when no word has two tokens.
std::pair<Pair, std::int64_t> most_frequent_pair(const std::vector<Word>& words) {
  std::map<Pair, std::int64_t> counts;
  for (const Word& word : words)
    for (std::size_t i = 0; i + 1 < word.tokens.size(); ++i) counts[{word.tokens[i], word.tokens[i + 1]}] += word.count;
  std::pair<Pair, std::int64_t> best;
  for (const auto& [pair, count] : counts)
    if (count > best.second) best = {pair, count};
  return best;
}

void join(Word& word, const Pair& pair) {
  std::vector<std::string> joined;
  for (std::size_t i = 0; i < word.tokens.size(); ++i) {
    const bool is_pair =
        i + 1 < word.tokens.size() && word.tokens[i] == pair.first && word.tokens[i + 1] == pair.second;
    joined.push_back(is_pair ? pair.first + pair.second : word.tokens[i]);
    if (is_pair) ++i;
  }
  word.tokens = std::move(joined);
}

ordered_json tokenizer_config(Family family, std::int64_t max_positions) {
  if (family == Family::opt)
    return {{"add_bos_token", true}, {"add_prefix_space", false}, {"bos_token", "</s>"},
            {"eos_token", "</s>"},   {"errors", "replace"},       {"model_max_length", max_positions},
            {"pad_token", "<pad>"},  {"unk_token", "</s>"},       {"tokenizer_class", "GPT2Tokenizer"}};
  return {{"add_bos_token", true},
          {"add_eos_token", false},
          {"bos_token", "<s>"},
          {"eos_token", "<s>"},
          {"unk_token", "<unk>"},
          {"legacy", false},
          {"model_max_length", max_positions},
          {"tokenizer_class", "LlamaTokenizer"}};
}

}  // namespace

std::string train_sentencepiece(const std::vector<std::string>& texts, std::int64_t vocab) {
  Lines lines(texts);
  std::string model;
  // Text as it is, spaces included; and no sampling, no threads: the same texts give the same bytes.
  const auto status = sentencepiece::SentencePieceTrainer::Train({{"model_type", "bpe"},
                                                                  {"vocab_size", std::to_string(vocab)},
                                                                  {"byte_fallback", "true"},
                                                                  {"character_coverage", "1.0"},
                                                                  {"split_digits", "true"},
                                                                  {"normalization_rule_name", "identity"},
                                                                  {"remove_extra_whitespaces", "false"},
                                                                  {"allow_whitespace_only_pieces", "true"},
                                                                  {"max_sentence_length", "1000000"},
                                                                  {"num_threads", "1"},
                                                                  {"unk_id", "0"},
                                                                  {"bos_id", "1"},
                                                                  {"eos_id", "-1"},
                                                                  {"minloglevel", "3"}},
                                                                 &lines, &model);
  require_input(status.ok(), "vocab: expected texts that give a vocabulary of ", vocab,
                ", found that the library refuses them (", status.ToString(), "); use more text or a smaller vocab");
  return model;
}

ByteLevelBpe train_byte_level_bpe(const std::vector<std::string>& texts, std::int64_t vocab) {
  require_input(vocab >= smallest_vocabulary(Family::opt), "vocab: expected at least ",
                smallest_vocabulary(Family::opt), ", the bytes and the special tokens, found ", vocab);
  ByteLevelBpe result{{"<s>", "<pad>", "</s>", "<unk>"}, {}};
  for (int byte = 0; byte < 256; ++byte) {
    const char c = char(byte);
    result.tokens.push_back(tokenization::spell_bytes(std::string_view(&c, 1)));
  }
  std::unordered_set<std::string> known(result.tokens.begin(), result.tokens.end());
  std::vector<Word> words = spelled_words(texts);
  while (std::ssize(result.tokens) < vocab) {
    const auto [pair, count] = most_frequent_pair(words);
    require_input(count > 0, "vocab: expected texts that give ", vocab, " entries, found ", result.tokens.size(),
                  "; use more text or a smaller vocab");
    for (Word& word : words) join(word, pair);
    result.merges.push_back(pair);
    // Two merges may spell the same token: "ab" + "c" and "a" + "bc".
    if (known.insert(pair.first + pair.second).second) result.tokens.push_back(pair.first + pair.second);
  }
  return result;
}

void write_vocabulary(const std::filesystem::path& folder, Family family, const std::vector<std::string>& texts,
                      std::int64_t vocab, std::int64_t max_positions) {
  if (family == Family::opt) {
    const ByteLevelBpe bpe = train_byte_level_bpe(texts, vocab);
    ordered_json ids = ordered_json::object();
    for (std::size_t id = 0; id < bpe.tokens.size(); ++id) ids[bpe.tokens[id]] = id;
    std::string merges = "#version: 0.2\n";
    for (const auto& [left, right] : bpe.merges) merges += left + " " + right + "\n";
    write_file(folder / "vocab.json", ids.dump() + "\n");
    write_file(folder / "merges.txt", merges);
  } else {
    write_file(folder / "tokenizer.model", train_sentencepiece(texts, vocab));
  }
  write_file(folder / "tokenizer_config.json", tokenizer_config(family, max_positions).dump(2) + "\n");
}

}  // namespace cbq
