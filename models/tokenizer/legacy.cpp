// vocab.json + merges.txt: byte-level BPE as OPT and GPT-2 use it.
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/kinds.h"
#include "models/tokenizer/pipeline.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;

constexpr std::int32_t kNoId = -1;
constexpr const char* kOptToken = "</s>";
constexpr const char* kGpt2Token = "<|endoftext|>";

Vocabulary read_vocabulary(std::string_view source, const std::string& where) {
  const json file = parse_json_text(source, where);
  require_input(file.is_object() && !file.empty(), where, ": expected an object of tokens and ids, found ",
                file.is_object() ? "an empty one" : file.type_name(), "; repair the file");
  Vocabulary vocabulary;
  for (const auto& [token, id] : file.items())
    vocabulary.add(token, token_id(id, concat(where, ": ", quoted_text(token))), where);
  return vocabulary;
}

MergeList read_merges(std::string_view source, const std::string& where) {
  require_input(is_valid_utf8(source), where, ": expected UTF-8, found other bytes; repair the file");
  MergeList merges;
  std::size_t number = 0;
  while (!source.empty()) {
    const std::size_t end = std::min(source.find('\n'), source.size());
    std::string_view line = source.substr(0, end);
    source.remove_prefix(std::min(end + 1, source.size()));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const std::size_t space = line.find(' ');
    require_input(space != std::string_view::npos && space > 0 && space + 1 < line.size() &&
                      line.find(' ', space + 1) == std::string_view::npos,
                  where, ":", number, ": expected two tokens with a space between them, found ", quoted_text(line),
                  "; repair the file");
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return merges;
}

// The named special tokens and the added ones; a name that the vocabulary does not have is no token.
std::vector<AddedToken> special_tokens(Vocabulary& vocabulary, const TokenizerConfig& config,
                                       const std::string& where) {
  std::vector<AddedToken> tokens = config.added_tokens;
  for (const AddedToken& token : tokens) vocabulary.add(token.content, token.id, where);
  for (const auto& name : {config.bos_token, config.eos_token, config.unk_token, config.pad_token}) {
    const std::int32_t id = name && !name->empty() ? vocabulary.find(*name).value_or(kNoId) : kNoId;
    const bool known = std::any_of(tokens.begin(), tokens.end(), [&](const auto& token) { return token.id == id; });
    if (id == kNoId || known) continue;
    AddedToken token;
    token.content = *name;
    token.id = id;
    tokens.push_back(std::move(token));
  }
  for (AddedToken& token : tokens) token.normalized = false;  // there is no normaliser
  return tokens;
}

// What the reference classes assume where no file says it.
TokenizerConfig with_defaults(TokenizerConfig config, const Vocabulary& vocabulary) {
  const bool is_opt = vocabulary.find(kOptToken).has_value();
  const char* token = is_opt ? kOptToken : kGpt2Token;
  if (!config.bos_token) config.bos_token = token;
  if (!config.eos_token) config.eos_token = token;
  if (!config.unk_token) config.unk_token = token;
  if (!config.pad_token && is_opt) config.pad_token = "<pad>";
  return config;
}

}  // namespace

std::unique_ptr<Tokenizer> from_vocab_and_merges(std::string_view vocab, std::string_view merges,
                                                 const TokenizerConfig& given, const std::string& name) {
  Vocabulary vocabulary = read_vocabulary(vocab, name + "/vocab.json");
  const TokenizerConfig config = with_defaults(given, vocabulary);
  std::vector<AddedToken> added = special_tokens(vocabulary, config, name);
  const auto find = [&](const std::string& token) { return vocabulary.find(token); };
  VocabularyInfo info;
  info.size = vocabulary.size();
  info.bos = bos_of(config, config.bos_token == kOptToken ? find(kOptToken) : std::nullopt, find, name);
  info.eos = find(*config.eos_token);
  BpeOptions options;
  options.unk = find(*config.unk_token);
  const json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", config.add_prefix_space.value_or(false)}};
  Pipeline pipeline{
      std::move(added),
      {},
      pre_tokenizer_steps(byte_level, name),
      Bpe(std::move(vocabulary), read_merges(merges, name + "/merges.txt"), options, name + "/merges.txt"),
      decoder_steps(byte_level, name)};
  return std::make_unique<BpeTokenizer>(std::move(pipeline), info);
}

}  // namespace cbq::tokenization
