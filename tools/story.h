// Small stories from a grammar: text whose every word, cause and consequence is known, for models of a few hundred
// thousand weights.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/rng.h"

namespace cbq {

// A context-free grammar whose symbols can be remembered. One rule is a line "NAME:" and one alternative a line below
// it; an alternative has fields parted by '|'. Inside them
//   {name}     a drawn alternative's first field; drawn once, then the same to the end of the text
//   {name.2}   its field 2, counted from 0: with "Lily|she|her", {person} smiled because {person.1} was happy
//   {name2}    another draw of the rule `name`, different from {name}, {name1} ...
//   {*name}    a new draw each time
// and a name with a capital, {Name}, gives its text one.
class Grammar {
 public:
  // Errors (failure): text before the first rule, a rule without alternatives.
  explicit Grammar(std::string_view rules);
  // One text from the rule `start`. Error failure: a rule or field that does not exist, fewer alternatives than
  // different draws asked for, or nesting without end.
  std::string expand(const std::string& start, Rng& rng) const;
  // All alternatives of all rules, for those who look for their words.
  const std::map<std::string, std::vector<std::string>, std::less<>>& rules() const { return rules_; }

 private:
  struct Draws;
  std::string expand_text(std::string_view text, Draws& draws, int depth) const;
  std::string resolve(std::string_view symbol, Draws& draws, int depth) const;
  const std::string& bound(const std::string& name, Draws& draws) const;

  std::map<std::string, std::vector<std::string>, std::less<>> rules_;
};

// The stories of the example models; they start from the rule "story".
const Grammar& story_grammar();

}  // namespace cbq
