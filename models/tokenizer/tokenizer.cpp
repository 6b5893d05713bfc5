#include "models/tokenizer/tokenizer.h"

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "models/gguf.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "models/tokenizer/kinds.h"

namespace cbq {
namespace tokenization {

std::optional<std::int32_t> bos_of(const TokenizerConfig& config, std::optional<std::int32_t> of_kind,
                                   const std::function<std::optional<std::int32_t>(const std::string&)>& find,
                                   const std::string& name) {
  if (!config.add_bos_token || of_kind) return config.add_bos_token.value_or(true) ? of_kind : std::nullopt;
  if (!*config.add_bos_token) return std::nullopt;
  const std::optional<std::int32_t> id = config.bos_token ? find(*config.bos_token) : std::nullopt;
  require_input(id.has_value(), name, ": add_bos_token is true: expected a bos_token of the vocabulary, found ",
                config.bos_token ? quoted_text(*config.bos_token) : "none", "; correct tokenizer_config.json");
  return id;
}

}  // namespace tokenization

std::unique_ptr<Tokenizer> Tokenizer::open(const std::filesystem::path& model_folder) {
  using namespace tokenization;
  if (const auto file = gguf_file(model_folder))
    return make_tokenizer(read_vocabulary(GgufFile(*file)), file->string());
  const auto has = [&](const char* file) {
    std::error_code error;
    return std::filesystem::exists(model_folder / file, error);
  };
  const auto path = [&](const char* file) { return (model_folder / file).string(); };
  if (has("tokenizer.json")) {
    const std::string name = path("tokenizer.json");
    return from_tokenizer_json(read_file(name), read_tokenizer_config(model_folder), name);
  }
  if (has("tokenizer.model")) {
    const std::string name = path("tokenizer.model");
    return from_sentencepiece(read_file(name), read_tokenizer_config(model_folder), name);
  }
  if (has("vocab.json") && has("merges.txt")) {
    return from_vocab_and_merges(read_file(path("vocab.json")), read_file(path("merges.txt")),
                                 read_tokenizer_config(model_folder), model_folder.string());
  }
  fail(ErrorKind::bad_input, model_folder.string(),
       ": expected tokenizer.json, tokenizer.model or vocab.json with merges.txt, found ",
       has("vocab.json")   ? "vocab.json alone"
       : has("merges.txt") ? "merges.txt alone"
                           : "none of them",
       "; copy the tokenizer's files into the model folder");
}

}  // namespace cbq
