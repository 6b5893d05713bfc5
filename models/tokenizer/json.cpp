// tokenizer.json, the format of the `tokenizers` library, as far as BPE models use it.
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/kinds.h"
#include "models/tokenizer/pipeline.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;

const json& array(const json& object, const char* key, const std::string& where) {
  const json& value = member(object, key, where);
  require_input(value.is_array(), where, ": \"", key, "\": expected an array, found ", value.type_name(),
                "; repair the file");
  return value;
}

json optional_member(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() ? json() : *found;
}

Vocabulary read_vocabulary(const json& model, const std::string& where) {
  const json& vocab = member(model, "vocab", where);
  require_input(vocab.is_object() && !vocab.empty(), where, ": \"vocab\": expected an object of tokens and ids, found ",
                vocab.is_object() ? "an empty one" : vocab.type_name(), "; repair the file");
  Vocabulary vocabulary;
  for (const auto& [token, id] : vocab.items()) {
    vocabulary.add(token, token_id(id, concat(where, ": vocab: ", quoted_text(token))), where);
  }
  return vocabulary;
}

// A merge is "left right" or ["left", "right"].
std::pair<std::string, std::string> read_merge(const json& merge, const std::string& where) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  const std::string joined = merge.is_string() ? merge.get<std::string>() : "";
  const std::size_t space = joined.find(' ');
  require_input(space != std::string::npos && joined.find(' ', space + 1) == std::string::npos, where,
                ": merges: expected \"left right\" or [\"left\", \"right\"], found ", quoted_text(merge.dump()),
                "; repair the file");
  return {joined.substr(0, space), joined.substr(space + 1)};
}

Bpe read_model(const json& model, Vocabulary vocabulary, const std::string& where) {
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const std::string value = text(model, affix, where).value_or("");
    require_input(value.empty(), where, ": \"", affix, "\": expected null, found ", quoted_text(value),
                  ", which is not supported; use a checkpoint with another tokenizer");
  }
  const json dropout = optional_member(model, "dropout");
  require_input(dropout.is_null() || (dropout.is_number() && dropout.get<double>() == 0), where,
                ": \"dropout\": expected null, found ", quoted_text(dropout.dump()), "; set it to null");
  BpeOptions options;
  options.fuse_unk = flag(model, "fuse_unk", where).value_or(false);
  options.byte_fallback = flag(model, "byte_fallback", where).value_or(false);
  options.ignore_merges = flag(model, "ignore_merges", where).value_or(false);
  if (const auto unk = text(model, "unk_token", where)) {
    options.unk = vocabulary.find(*unk);
    require_input(options.unk.has_value(), where, ": \"unk_token\": expected a token of the vocabulary, found ",
                  quoted_text(*unk), "; repair the file");
  }
  MergeList merges;
  for (const json& merge : array(model, "merges", where)) merges.push_back(read_merge(merge, where));
  return Bpe(std::move(vocabulary), merges, options, where);
}

// The ids that a template "single" puts before the text (sequence A).
std::vector<std::int32_t> template_prefix(const json& processor, const Vocabulary& vocabulary,
                                          const std::string& where) {
  std::vector<std::int32_t> prefix;
  for (const json& piece : array(processor, "single", where)) {
    require_input(piece.is_object(), where, ": expected objects in \"single\", found ", piece.type_name(),
                  "; repair the file");
    if (piece.contains("Sequence")) return prefix;
    const std::string token = required_text(member(piece, "SpecialToken", where), "id", where);
    const json& special = member(member(processor, "special_tokens", where), token.c_str(), where);
    for (const json& entry : array(special, "ids", where)) {
      prefix.push_back(token_id(entry, where));
      require_input(vocabulary.token(prefix.back()) != nullptr, where, ": expected ids of the vocabulary, found ",
                    prefix.back(), "; repair the file");
    }
  }
  fail(ErrorKind::bad_input, where, ": \"single\": expected a \"Sequence\", found none; repair the file");
}

std::optional<std::int32_t> template_bos(const json& component, const Vocabulary& vocabulary,
                                         const std::string& where) {
  std::optional<std::int32_t> bos;
  for (const json& part : flat_components(component, "processors", where)) {
    const std::string type = required_text(part, "type", where);
    if (type == "ByteLevel") continue;  // concerns offsets only
    if (type != "TemplateProcessing") fail_unsupported(where, type, "Sequence, TemplateProcessing, ByteLevel");
    const std::vector<std::int32_t> prefix = template_prefix(part, vocabulary, where);
    if (prefix.empty()) continue;
    require_input(prefix.size() == 1 && !bos, where,
                  ": expected at most one token before the text, found more; use a checkpoint with another tokenizer");
    bos = prefix.front();
  }
  return bos;
}

}  // namespace

std::unique_ptr<Tokenizer> from_tokenizer_json(std::string_view source, const TokenizerConfig& config,
                                               const std::string& name) {
  return from_parsed_tokenizer_json(parse_json_text(source, name), config, name);
}

std::unique_ptr<Tokenizer> from_parsed_tokenizer_json(const json& file, const TokenizerConfig& config,
                                                      const std::string& name) {
  const json& model = member(file, "model", name);
  const std::string where = name + ": model";
  require_input(model.is_object(), where, ": expected an object, found ", model.type_name(), "; repair the file");
  // The oldest files name no type; only BPE has merges.
  const std::string type = text(model, "type", where).value_or(model.contains("merges") ? "BPE" : "none");
  if (type != "BPE") fail_unsupported(where, type, "BPE");

  Vocabulary vocabulary = read_vocabulary(model, where);
  std::vector<AddedToken> added;
  const json added_list = optional_member(file, "added_tokens");
  require_input(added_list.is_null() || added_list.is_array(), name, ": \"added_tokens\": expected an array, found ",
                added_list.type_name(), "; repair the file");
  for (const json& entry : added_list) {
    AddedToken token = added_token(entry, name + ": added_tokens");
    token.id = token_id(member(entry, "id", name), concat(name, ": added_tokens: ", quoted_text(token.content)));
    vocabulary.add(token.content, token.id, name + ": added_tokens");
    added.push_back(std::move(token));
  }

  const std::optional<std::int32_t> prefix =
      template_bos(optional_member(file, "post_processor"), vocabulary, name + ": post_processor");
  const auto find = [&](const std::string& token) { return vocabulary.find(token); };
  VocabularyInfo info;
  info.size = vocabulary.size();
  info.bos = bos_of(config, prefix, find, name);
  if (config.eos_token) info.eos = find(*config.eos_token);
  Pipeline pipeline{std::move(added), normalizer_steps(optional_member(file, "normalizer"), name + ": normalizer"),
                    pre_tokenizer_steps(optional_member(file, "pre_tokenizer"), name + ": pre_tokenizer"),
                    read_model(model, std::move(vocabulary), where),
                    decoder_steps(optional_member(file, "decoder"), name + ": decoder")};
  return std::make_unique<BpeTokenizer>(std::move(pipeline), info);
}

}  // namespace cbq::tokenization
