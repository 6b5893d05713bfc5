// What the three kinds of steps share, and the normalisers.
#include "models/tokenizer/steps.h"

#include <map>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/files.h"
#include "models/tokenizer/regex.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxComponents = 64;
constexpr int kMaxNesting = 8;

void check_growth(std::size_t bytes, std::size_t limit_bytes) {
  require_input(bytes <= limit_bytes, "tokenizer: expected steps that let a text grow to at most ", limit_bytes,
                " bytes, found ", bytes, "; repair tokenizer.json");
}

void flatten(std::vector<json>& flat, const json& component, const char* list_key, int depth,
             const std::string& where) {
  if (component.is_null()) return;
  require_input(depth <= kMaxNesting, where, ": expected at most ", kMaxNesting,
                " nested sequences, found more; repair the file");
  if (required_text(component, "type", where) != "Sequence") {
    flat.push_back(component);
    require_input(flat.size() <= kMaxComponents, where, ": expected at most ", kMaxComponents,
                  " components, found more; repair the file");
    return;
  }
  const json& list = member(component, list_key, where);
  require_input(list.is_array(), where, ": \"", list_key, "\": expected an array, found ", list.type_name(),
                "; repair the file");
  for (const json& entry : list) flatten(flat, entry, list_key, depth + 1, where);
}

NormalizerStep replace_step(const json& component, const std::string& where) {
  const json& pattern = member(component, "pattern", where);
  const std::string content = required_text(component, "content", where);
  if (const auto literal = text(pattern, "String", where)) {
    require_input(!literal->empty(), where, ": expected a pattern, found an empty string; repair the file");
    return [pattern = *literal, content](const std::string& source, std::size_t limit) {
      return replace_all(source, pattern, content, limit);
    };
  }
  return [regex = Regex(required_text(pattern, "Regex", where), where), content](const std::string& source,
                                                                                 std::size_t limit) {
    const std::vector<ByteRange> matches = regex.matches(source);
    check_growth(source.size() + matches.size() * content.size(), limit);
    std::string out;
    std::size_t done = 0;
    for (const ByteRange& match : matches) {
      out.append(source, done, match.begin - done);
      out += content;
      done = match.end;
    }
    return out.append(source, done);
  };
}

NormalizerStep unicode_step(NormalForm form) {
  return [form](const std::string& source, std::size_t limit) {
    std::string out = normalized(source, form);
    check_growth(out.size(), limit);
    return out;
  };
}

NormalizerStep normalizer_step(const json& component, const std::string& where) {
  static const std::map<std::string, NormalForm> kForms = {
      {"NFC", NormalForm::nfc}, {"NFD", NormalForm::nfd}, {"NFKC", NormalForm::nfkc}, {"NFKD", NormalForm::nfkd}};
  const std::string type = required_text(component, "type", where);
  if (const auto form = kForms.find(type); form != kForms.end()) return unicode_step(form->second);
  if (type == "Replace") return replace_step(component, where);
  if (type == "Prepend") {
    return [prefix = required_text(component, "prepend", where)](const std::string& source, std::size_t limit) {
      check_growth(prefix.size() + source.size(), limit);
      return source.empty() ? source : prefix + source;
    };
  }
  fail_unsupported(where, type, "Sequence, Prepend, Replace, NFC, NFD, NFKC, NFKD");
}

}  // namespace

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content,
                        std::size_t limit_bytes) {
  std::string out;
  std::size_t done = 0;
  for (std::size_t at = text.find(pattern); at != std::string_view::npos; at = text.find(pattern, done)) {
    out += text.substr(done, at - done);
    out += content;
    done = at + pattern.size();
    check_growth(out.size(), limit_bytes);
  }
  out += text.substr(done);
  return out;
}

std::vector<json> flat_components(const json& component, const char* list_key, const std::string& where) {
  std::vector<json> flat;
  flatten(flat, component, list_key, 0, where);
  return flat;
}

void fail_unsupported(const std::string& where, const std::string& found, const std::string& supported) {
  fail(ErrorKind::bad_input, where, ": expected one of ", supported, ", found ", quoted_text(found),
       ", which is not supported; use a checkpoint with another tokenizer");
}

std::vector<NormalizerStep> normalizer_steps(const json& component, const std::string& where) {
  std::vector<NormalizerStep> steps;
  for (const json& part : flat_components(component, "normalizers", where)) {
    steps.push_back(normalizer_step(part, where));
  }
  return steps;
}

}  // namespace cbq::tokenization
