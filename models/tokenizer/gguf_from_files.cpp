// From tokenizer files to the vocabulary of a GGUF file.
#include <algorithm>
#include <set>
#include <unordered_map>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/files.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "models/tokenizer/spm_check.h"
#include "models/tokenizer/steps.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kAdvice = "; export to compressed-tensors or dense instead";

// Tokens with ids beyond those there are, and others as unused ones, up to `count`.
void fill_up(GgufVocabulary& v, const std::vector<AddedToken>& added, std::int64_t count, const std::string& name) {
  require_input(std::ssize(v.tokens) <= count, name, ": expected at most ", count, " tokens, the vocabulary of the ",
                "model, found ", v.tokens.size(), "; put the model's own tokenizer there");
  std::set<std::string> known(v.tokens.begin(), v.tokens.end());
  while (std::ssize(v.tokens) < count) {
    const auto id = std::int32_t(v.tokens.size());
    const auto token = std::ranges::find_if(added, [&](const AddedToken& a) { return a.id == id; });
    const bool is_added = token != added.end() && known.insert(token->content).second;
    v.tokens.push_back(is_added ? token->content : concat("[PAD", id, "]"));
    v.types.push_back(is_added ? PieceType::control : PieceType::unused);
    if (v.model == "llama") v.scores.push_back(0);
  }
}

GgufVocabulary from_spm(const fs::path& file) {
  const std::string name = file.string(), bytes = read_file(file);
  check_sentencepiece_model(bytes, name);
  SpmModel model = parse_spm_model(bytes, name);
  require_input(model.model_type == kSpmBpe, name, ": a GGUF file holds sentencepiece models of type BPE, found type ",
                model.model_type, kAdvice);
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = std::move(model.pieces);
  v.scores = std::move(model.scores);
  v.types = std::move(model.types);
  const auto valid = [&](std::int32_t id) {
    return id >= 0 && id < std::ssize(v.tokens) ? std::optional(id) : std::nullopt;
  };
  v.bos = valid(model.bos);
  v.eos = valid(model.eos);
  v.unk = valid(model.unk);
  v.pad = valid(model.pad);
  v.add_space_prefix = model.add_dummy_prefix;
  v.remove_extra_whitespaces = model.remove_extra_whitespaces;
  v.chars_map = std::move(model.chars_map);
  return v;
}

// The tokens of tokenizer.json by id. Tokenizer::open has accepted the file, so its types are right.
void take_tokens(GgufVocabulary& v, const json& file) {
  std::int64_t count = 0;
  const json& vocab = file.at("model").at("vocab");
  const json added = file.value("added_tokens", json::array());
  for (const auto& [token, id] : vocab.items()) count = std::max(count, id.get<std::int64_t>() + 1);
  for (const json& token : added) count = std::max(count, token.at("id").get<std::int64_t>() + 1);
  require_input(count <= 4 * std::int64_t(vocab.size() + added.size()), "tokenizer.json: expected ids without large ",
                "gaps, found ", vocab.size() + added.size(), " tokens and the id ", count - 1);
  for (std::int64_t id = 0; id < count; ++id) v.tokens.push_back(concat("[PAD", id, "]"));
  v.types.assign(std::size_t(count), PieceType::unused);
  const auto set = [&](const std::string& token, std::size_t id, PieceType type) {
    v.tokens[id] = token;
    v.types[id] = type;
  };
  for (const auto& [token, id] : vocab.items()) set(token, id.get<std::size_t>(), PieceType::normal);
  for (const json& token : added)
    set(token.at("content"), token.at("id"),
        token.value("special", false) ? PieceType::control : PieceType::user_defined);
}

std::pair<std::string, std::string> pair_of(const json& merge) {
  if (merge.is_array()) return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  const auto& text = merge.get_ref<const std::string&>();
  return {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
}

bool is_run_of_spaces(const std::string& token) {
  const std::string_view mark = "\xe2\x96\x81";
  for (std::size_t at = 0; at < token.size(); at += mark.size())
    if (token.compare(at, mark.size(), mark) != 0) return false;
  return true;
}

// Scores say which token is made first, not from which two: merges express them when each token is made from all of its
// pairs, one after the other. Runs of spaces, whose scores are equal in the models of LLaMA, come in any order.
void take_scores(GgufVocabulary& v, const json& merges, const std::string& name) {
  std::unordered_map<std::string, std::int32_t> ids;
  for (std::size_t id = 0; id < v.tokens.size(); ++id) ids.emplace(v.tokens[id], std::int32_t(id));
  std::set<std::pair<std::string, std::string>> pairs;
  v.scores.assign(v.tokens.size(), 0);
  std::string last;
  std::set<std::string> made;
  for (const json& merge : merges) {
    const auto& [left, right] = *pairs.insert(pair_of(merge)).first;
    const std::string joined = left + right;
    const bool is_new = made.insert(joined).second, is_space = is_run_of_spaces(joined);
    require_input(is_new || joined == last || is_space, name, ": merges: token ", quoted_text(joined),
                  " is made at two ranks, which the scores of a GGUF file cannot say; add tokenizer.model");
    const bool shares = is_space && is_run_of_spaces(last) && !last.empty();
    if (is_new)
      v.scores[std::size_t(ids.at(joined))] = shares ? v.scores[std::size_t(ids.at(last))] : -float(made.size());
    last = joined;
  }
  for (const std::string& token : made)
    for (std::size_t at = 1; at < token.size(); ++at) {
      const std::string left = token.substr(0, at), right = token.substr(at);
      const bool is_complete = !ids.contains(left) || !ids.contains(right) || pairs.contains({left, right});
      require_input(is_complete, name, ": merges: ", quoted_text(left), " and ", quoted_text(right), " make no ",
                    quoted_text(token), ", which the scores of a GGUF file cannot say; add tokenizer.model");
    }
}

// Those of tokenizer.model, which stands beside the file.
void take_scores(GgufVocabulary& v, const GgufVocabulary& spm) {
  std::unordered_map<std::string, float> scores;
  for (std::size_t id = 0; id < spm.tokens.size(); ++id) scores.emplace(spm.tokens[id], spm.scores[id]);
  for (const std::string& token : v.tokens) v.scores.push_back(scores.contains(token) ? scores.at(token) : 0);
}

// The space in front of a text, which the normaliser or the pre-tokenizer puts there.
bool adds_space_prefix(const json& file) {
  for (const json& step : flat_components(file.value("normalizer", json()), "normalizers", "normalizer"))
    if (step.at("type") == "Prepend") return true;
  for (const json& step : flat_components(file.value("pre_tokenizer", json()), "pretokenizers", "pre_tokenizer"))
    if (step.at("type") == "Metaspace")
      return step.value("prepend_scheme", step.value("add_prefix_space", true) ? "always" : "never") != "never";
  return false;
}

GgufVocabulary from_spm_like_json(const json& file, const fs::path& path) {
  GgufVocabulary v;
  v.model = "llama";
  take_tokens(v, file);
  std::error_code error;
  if (const fs::path model = path.parent_path() / "tokenizer.model"; fs::exists(model, error))
    take_scores(v, from_spm(model));
  else
    take_scores(v, file.at("model").at("merges"), path.string());
  for (std::size_t id = 0; id < v.tokens.size(); ++id)
    if (v.tokens[id].size() == 6 && v.tokens[id].starts_with("<0x")) v.types[id] = PieceType::byte;
  if (const auto unk = file.at("model").find("unk_token"); unk != file.at("model").end() && unk->is_string()) {
    v.unk = std::int32_t(std::ranges::find(v.tokens, unk->get<std::string>()) - v.tokens.begin());
    v.types[std::size_t(*v.unk)] = PieceType::unknown;
  }
  v.add_space_prefix = adds_space_prefix(file);
  return v;
}

// Name of the pre-tokenizer whose rules the file states.
std::string pre_name(const json& file, const std::string& name) {
  const auto steps = flat_components(file.value("pre_tokenizer", json()), "pretokenizers", name);
  const auto normalizers = flat_components(file.value("normalizer", json()), "normalizers", name);
  const bool is_byte_level =
      !steps.empty() && steps.back().at("type") == "ByteLevel" && !steps.back().value("add_prefix_space", true);
  std::string split;
  if (is_byte_level && steps.size() == 1 && steps[0].value("use_regex", true)) split = kGpt2Split;
  if (is_byte_level && steps.size() == 2 && !steps[1].value("use_regex", true) && steps[0].at("type") == "Split" &&
      steps[0].at("behavior") == "Isolated")
    split = steps[0].at("pattern").value("Regex", "");
  const bool nfc = normalizers.size() == 1 && normalizers[0].at("type") == "NFC";
  for (const PreTokenizer& pre : pre_tokenizers())
    if (split == pre.split && nfc == pre.nfc && (nfc || normalizers.empty()) &&
        file.at("model").value("ignore_merges", false) == pre.ignore_merges)
      return pre.name;
  fail(ErrorKind::bad_input, name,
       ": its normaliser and pre-tokenizer are none of those that GGUF files name and this ",
       "program knows: llama-bpe, qwen2, gpt-2", kAdvice);
}

GgufVocabulary from_json(const fs::path& path) {
  const std::string name = path.string();
  const json file = parse_json_file(path);
  if (file.at("model").value("byte_fallback", false)) return from_spm_like_json(file, path);
  GgufVocabulary v;
  v.model = "gpt2";
  v.pre = pre_name(file, name);
  take_tokens(v, file);
  for (const json& merge : file.at("model").at("merges")) {
    const auto [left, right] = pair_of(merge);
    v.merges.push_back(left + " " + right);
  }
  return v;
}

std::string chat_template(const fs::path& folder) {
  std::error_code error;
  if (const fs::path file = folder / "chat_template.jinja"; fs::exists(file, error)) return read_file(file);
  const fs::path file = folder / "tokenizer_config.json";
  if (!fs::exists(file, error)) return "";
  const json config = parse_json_file(file);
  const json found = config.is_object() ? config.value("chat_template", json()) : json();
  if (found.is_string()) return found.get<std::string>();
  for (const json& entry : found)  // several of them, by name
    if (entry.is_object() && entry.value("name", json()) == "default" && entry.value("template", json()).is_string())
      return entry["template"].get<std::string>();
  return "";
}

}  // namespace

GgufVocabulary gguf_vocabulary(const fs::path& folder, const ModelConfig& config) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(folder);  // refuses damaged files
  std::error_code error;
  const bool has_json = fs::exists(folder / "tokenizer.json", error), has_spm = fs::exists(folder / "tokenizer.model");
  require_input(has_json || has_spm, folder.string(),
                ": a GGUF file needs tokenizer.json or tokenizer.model, found vocab.json with merges.txt", kAdvice);
  const fs::path file = folder / (has_json ? "tokenizer.json" : "tokenizer.model");
  GgufVocabulary v = has_json ? from_json(file) : from_spm(file);
  const TokenizerConfig names = read_tokenizer_config(folder);
  fill_up(v, names.added_tokens, config.vocab, file.string());
  const auto named = [&](const std::optional<std::string>& token) -> std::optional<std::int32_t> {
    const auto found = token ? std::ranges::find(v.tokens, *token) : v.tokens.end();
    return found == v.tokens.end() ? std::nullopt : std::optional(std::int32_t(found - v.tokens.begin()));
  };
  const auto first = [&](std::initializer_list<std::optional<std::int32_t>> ids) -> std::optional<std::int32_t> {
    for (const auto& id : ids)
      if (id && *id < std::ssize(v.tokens)) return id;
    return std::nullopt;
  };
  v.add_bos = tokenizer->bos().has_value();
  v.bos = first({tokenizer->bos(), v.bos, named(names.bos_token), config.bos});
  v.eos = first({tokenizer->eos(), v.eos, named(names.eos_token),
                 config.eos.empty() ? std::nullopt : std::optional(config.eos.front())});
  v.unk = first({v.unk, named(names.unk_token)});
  v.pad = first({named(names.pad_token), v.pad});
  v.chat_template = chat_template(folder);
  return v;
}

}  // namespace cbq::tokenization
