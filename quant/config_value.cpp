#include "quant/config_value.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json.h"

namespace cbq {

namespace {

using nlohmann::json;

// Walks JSON text that a parser has accepted; it therefore checks nothing.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  // Moves from a container to the entry that the token names, and to its value; returns where the entry begins.
  std::size_t enter(const std::string& token) {
    skip_space();
    const bool is_object = text_[at_++] == '{';
    for (std::size_t index = 0;; ++index) {
      skip_space();
      const std::size_t entry_begin = at_;
      std::string found = std::to_string(index);
      if (is_object) {
        skip_string();
        found = json::parse(text_.substr(entry_begin, at_ - entry_begin)).get<std::string>();
        skip_space();
        ++at_;  // the colon
      }
      if (found == token) return entry_begin;
      skip_value();
      skip_space();
      require(at_ < text_.size() && text_[at_] == ',', "config: entry ", token, " is not in the text it was read from");
      ++at_;
    }
  }

 private:
  void skip_space() { at_ = std::min(text_.find_first_not_of(" \t\r\n", at_), text_.size()); }

  void skip_string() {
    for (++at_; text_[at_] != '"'; ++at_)
      if (text_[at_] == '\\') ++at_;
    ++at_;
  }

  // Up to the comma or bracket behind the value.
  void skip_value() {
    for (int depth = 0; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (depth == 0 && (c == ',' || c == ']' || c == '}')) return;
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (c == '"') {
        skip_string();
        --at_;
      }
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

// The parts of a pointer, outermost first.
std::vector<std::string> tokens(json::json_pointer pointer) {
  std::vector<std::string> result;
  for (; !pointer.empty(); pointer.pop_back()) result.push_back(pointer.back());
  std::reverse(result.begin(), result.end());
  return result;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t(0));
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j + 1] + 1, row[j] + 1});
    }
  }
  return row.back();
}

std::string shown(const json& value) {
  if (value.is_object()) return value.empty() ? "an empty object" : "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  return value.is_string() ? quoted_text(value.get_ref<const std::string&>()) : value.dump();
}

}  // namespace

std::string ConfigSource::place(const json::json_pointer& pointer) const {
  if (text.empty()) return name;
  Scanner scanner(text);
  std::size_t offset = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  for (const std::string& token : tokens(pointer)) offset = scanner.enter(token);
  const std::string_view before = std::string_view(text).substr(0, offset);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
  return concat(name, ":", line, ":", offset - line_begin + 1);
}

std::string ConfigValue::name() const {
  std::string result;
  for (const std::string& token : tokens(pointer_)) {
    const bool is_index = !result.empty() && token.find_first_not_of("0123456789") == std::string::npos;
    result += is_index ? "[" + token + "]" : (result.empty() ? "" : ".") + token;
  }
  return result;
}

void ConfigValue::reject(std::string_view expected) const {
  const std::string of_key = pointer_.empty() ? "" : name() + ": ";
  fail(ErrorKind::bad_input, place(), ": ", of_key, "expected ", expected, ", found ", shown(value_));
}

ConfigValue read_setting(const std::string& setting) {
  const auto source = std::make_shared<const ConfigSource>(
      ConfigSource{"--set " + quoted_text(setting), "", std::filesystem::current_path()});
  const std::size_t equals = setting.find('=');
  require_input(equals != std::string::npos && equals > 0, source->name, ": expected key=value");
  const std::string key = setting.substr(0, equals), text = setting.substr(equals + 1);
  json value;
  try {
    json(setting).dump();  // throws for text that is no UTF-8, which no JSON can hold
    value = parse_json_text(text, source->name);
  } catch (const Error&) {
    value = text;
  } catch (const json::type_error&) {
    fail(ErrorKind::bad_input, source->name, ": expected UTF-8");
  }
  const std::size_t dot = key.find('.');
  json object;
  (dot == std::string::npos ? object[key] : object[key.substr(0, dot)][key.substr(dot + 1)]) = value;
  return {source, object};
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  constexpr std::size_t kLongestName = 64;  // bounds the work; no key is as long
  std::string result;
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(name.substr(0, kLongestName), candidate);
    if (distance < least) least = distance, result = candidate;
  }
  return result;
}

}  // namespace cbq
