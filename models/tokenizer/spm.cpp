// tokenizer.model of LLaMA-1 and LLaMA-2, through the sentencepiece library.
#include <sentencepiece_processor.h>

#include <utility>

#include "core/error.h"
#include "models/tokenizer/kinds.h"
#include "models/tokenizer/spm_check.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

using Processor = sentencepiece::SentencePieceProcessor;

std::optional<std::int32_t> valid_id(int id) {
  return id >= 0 ? std::optional<std::int32_t>(id) : std::nullopt;
}

std::optional<std::int32_t> id_of(const Processor& processor, const std::string& piece) {
  const int id = processor.PieceToId(piece);
  return id != processor.unk_id() || piece == processor.IdToPiece(processor.unk_id()) ? valid_id(id) : std::nullopt;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<const Processor> processor, VocabularyInfo info)
      : Tokenizer(info), processor_(std::move(processor)) {}

  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    const auto status = processor_->Encode(valid_utf8(text), &ids);
    require(status.ok(), "tokenizer.model: encoding a text of ", text.size(), " bytes: ", status.ToString());
    return std::vector<std::int32_t>(ids.begin(), ids.end());
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    for (const std::int32_t id : ids) {
      require_input(id >= 0 && id < vocab_size(), "tokenizer: expected ids of the vocabulary of ", vocab_size(),
                    ", found ", id, "; the ids are of another tokenizer");
    }
    std::string text;
    const auto status = processor_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    require(status.ok(), "tokenizer.model: decoding ", ids.size(), " ids: ", status.ToString());
    return text;
  }

 private:
  std::unique_ptr<const Processor> processor_;
};

}  // namespace

std::unique_ptr<Tokenizer> from_sentencepiece(std::string_view model, const TokenizerConfig& config,
                                              const std::string& name) {
  check_sentencepiece_model(model, name);
  auto processor = std::make_unique<Processor>();
  const auto status = processor->LoadFromSerializedProto(absl::string_view(model.data(), model.size()));
  require_input(status.ok(), name, ": expected a sentencepiece model, found one that the library refuses (",
                status.ToString(), "); fetch the file again");
  VocabularyInfo info;
  info.size = processor->GetPieceSize();
  const auto find = [&](const std::string& piece) { return id_of(*processor, piece); };
  info.bos = bos_of(config, valid_id(processor->bos_id()), find, name);
  info.eos = valid_id(processor->eos_id());
  return std::make_unique<SentencePieceTokenizer>(std::move(processor), info);
}

}  // namespace cbq::tokenization
