// A BPE tokenizer with the steps around it; tokenizer.json and vocab.json + merges.txt both become one.
#pragma once

#include <string>
#include <vector>

#include "models/tokenizer/added.h"
#include "models/tokenizer/bpe.h"
#include "models/tokenizer/steps.h"
#include "models/tokenizer/tokenizer.h"

namespace cbq::tokenization {

struct Pipeline {
  std::vector<AddedToken> added_tokens;  // with ids
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  Bpe bpe;
  std::vector<DecoderStep> decoder;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(Pipeline pipeline, VocabularyInfo info);
  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const std::int32_t> ids) const override;

 private:
  enum class SearchedText { raw, normalized };
  std::string normalize(std::string_view text) const;
  std::vector<AddedToken> tokens_searched_in(SearchedText searched) const;

  Pipeline pipeline_;
  AddedTokenMatcher raw_tokens_;         // looked for in the text as it is
  AddedTokenMatcher normalized_tokens_;  // looked for behind the normaliser
};

}  // namespace cbq::tokenization
