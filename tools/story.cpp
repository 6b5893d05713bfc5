#include "tools/story.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include "core/error.h"

namespace cbq {

namespace {

constexpr int kMaxDepth = 32;

// Field i of an alternative; fields are parted by '|'.
std::string_view field(std::string_view alternative, std::size_t i, std::string_view symbol) {
  for (; i > 0; --i) {
    const std::size_t bar = alternative.find('|');
    require(bar != std::string_view::npos, "grammar: {", symbol, "}: there is no such field");
    alternative.remove_prefix(bar + 1);
  }
  return alternative.substr(0, alternative.find('|'));
}

// "person2" -> "person".
std::string_view rule_name(std::string_view name) {
  return name.substr(0, name.find_last_not_of("0123456789") + 1);
}

std::string capitalised(std::string text) {
  if (!text.empty()) text[0] = char(std::toupper(static_cast<unsigned char>(text[0])));
  return text;
}

}  // namespace

struct Grammar::Draws {
  Rng& rng;
  std::map<std::string, const std::string*, std::less<>> bound;
};

Grammar::Grammar(std::string_view rules) {
  std::vector<std::string>* alternatives = nullptr;
  while (!rules.empty()) {
    const std::size_t end = std::min(rules.find('\n'), rules.size());
    const std::string_view line = rules.substr(0, end);
    rules.remove_prefix(std::min(end + 1, rules.size()));
    if (line.empty()) continue;
    if (line.ends_with(':') && line.find(' ') == std::string_view::npos) {
      alternatives = &rules_[std::string(line.substr(0, line.size() - 1))];
      continue;
    }
    require(alternatives != nullptr, "grammar: expected a line \"NAME:\" before \"", line, "\"");
    alternatives->emplace_back(line);
  }
  for (const auto& [name, list] : rules_) require(!list.empty(), "grammar: rule ", name, " has no alternative");
}

std::string Grammar::expand(const std::string& start, Rng& rng) const {
  Draws draws{rng, {}};
  return expand_text("{" + start + "}", draws, 0);
}

const std::string& Grammar::bound(const std::string& name, Draws& draws) const {
  const auto found = draws.bound.find(name);
  if (found != draws.bound.end()) return *found->second;
  const auto rule = rules_.find(rule_name(name));
  require(rule != rules_.end(), "grammar: there is no rule ", rule_name(name));
  std::set<const std::string*> taken;
  for (const auto& [other, alternative] : draws.bound)
    if (rule_name(other) == rule->first) taken.insert(alternative);
  const std::vector<std::string>& all = rule->second;
  require(taken.size() < all.size(), "grammar: rule ", rule->first, " has only ", all.size(), " alternatives");
  const std::string* choice;
  do choice = &all[draws.rng.below(all.size())];
  while (taken.contains(choice));
  draws.bound.emplace(name, choice);
  return *choice;
}

std::string Grammar::resolve(std::string_view symbol, Draws& draws, int depth) const {
  require(depth < kMaxDepth, "grammar: {", symbol, "} nests without end");
  const bool fresh = symbol.starts_with('*');
  const std::string_view body = fresh ? symbol.substr(1) : symbol;
  const std::size_t dot = body.find('.');
  std::string name(body.substr(0, dot));
  const std::size_t index = dot == std::string_view::npos ? 0 : std::stoul(std::string(body.substr(dot + 1)));
  const bool capital = !name.empty() && std::isupper(static_cast<unsigned char>(name[0]));
  if (capital) name[0] = char(std::tolower(static_cast<unsigned char>(name[0])));
  const std::string* alternative = nullptr;
  if (fresh) {
    const auto rule = rules_.find(name);
    require(rule != rules_.end(), "grammar: there is no rule ", name);
    alternative = &rule->second[draws.rng.below(rule->second.size())];
  } else {
    alternative = &bound(name, draws);
  }
  std::string text = expand_text(field(*alternative, index, symbol), draws, depth + 1);
  return capital ? capitalised(std::move(text)) : text;
}

std::string Grammar::expand_text(std::string_view text, Draws& draws, int depth) const {
  std::string result;
  while (!text.empty()) {
    const std::size_t open = std::min(text.find('{'), text.size());
    result += text.substr(0, open);
    text.remove_prefix(open);
    if (text.empty()) break;
    const std::size_t close = text.find('}');
    require(close != std::string_view::npos, "grammar: expected } after ", text);
    result += resolve(text.substr(1, close - 1), draws, depth);
    text.remove_prefix(close + 1);
  }
  return result;
}

}  // namespace cbq
