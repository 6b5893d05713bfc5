// The grammar that writes the text of the example models.
#include "tools/story.h"

#include <gtest/gtest.h>

#include <cctype>
#include <set>

#include "tests/error_text.h"

namespace cbq {
namespace {

constexpr std::uint64_t kSeed = 5;

std::string expand(std::string_view rules, std::uint64_t seed = kSeed) {
  Rng rng(seed);
  return Grammar(rules).expand("s", rng);
}

TEST(Grammar, DrawsOnceAndRemembers) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::string text = expand("s:\n{who} saw {who.1} dog\nwho:\nAnna|her\nTom|his\n", seed);
    EXPECT_TRUE(text == "Anna saw her dog" || text == "Tom saw his dog") << text;
  }
}

TEST(Grammar, NumberedDrawsDiffer) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const std::string text = expand("s:\n{x}{x2}\nx:\na\nb\n", seed);
    EXPECT_TRUE(text == "ab" || text == "ba") << text;
  }
}

TEST(Grammar, StarDrawsAnew) {
  std::set<std::string> texts;
  for (std::uint64_t seed = 0; seed < 50; ++seed) texts.insert(expand("s:\n{*x}{*x}\nx:\na\nb\n", seed));
  EXPECT_EQ(texts, (std::set<std::string>{"aa", "ab", "ba", "bb"}));
}

TEST(Grammar, CapitalsAndNesting) {
  EXPECT_EQ(expand("s:\n{X} and {x}\nx:\nthe {y}\ny:\ncat\n"), "The cat and the cat");
}

TEST(Grammar, RefusesWhatIsNoGrammar) {
  EXPECT_EQ(error_text([] { Grammar("alone\n"); }, ErrorKind::failure),
            "grammar: expected a line \"NAME:\" before \"alone\"");
  EXPECT_EQ(error_text([] { Grammar("s:\n"); }, ErrorKind::failure), "grammar: rule s has no alternative");
  EXPECT_EQ(error_text([] { expand("s:\n{t}\n"); }, ErrorKind::failure), "grammar: there is no rule t");
  EXPECT_EQ(error_text([] { expand("s:\n{x.1}\nx:\na\n"); }, ErrorKind::failure),
            "grammar: {x.1}: there is no such field");
  EXPECT_EQ(error_text([] { expand("s:\n{x}{x2}\nx:\na\n"); }, ErrorKind::failure),
            "grammar: rule x has only 1 alternatives");
  EXPECT_EQ(error_text([] { expand("s:\n{*s}\n"); }, ErrorKind::failure), "grammar: {*s} nests without end");
  EXPECT_EQ(error_text([] { expand("s:\n{s\n"); }, ErrorKind::failure), "grammar: expected } after {s");
}

TEST(Stories, AreSentences) {
  Rng rng(kSeed);
  for (int i = 0; i < 2000; ++i) {
    const std::string story = story_grammar().expand("story", rng);
    EXPECT_EQ(story.find_first_of("{}|*"), std::string::npos) << story;
    EXPECT_EQ(story.find("  "), std::string::npos) << story;
    EXPECT_TRUE(story.ends_with('.')) << story;
    for (std::size_t at = story.find(". "); at != std::string::npos; at = story.find(". ", at + 1))
      EXPECT_TRUE(std::isupper(story[at + 2]) || story[at + 2] == '"') << story.substr(at) << " in " << story;
  }
}

TEST(Stories, VaryWithTheSeedAlone) {
  std::set<std::string> stories;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    Rng rng(seed), again(seed);
    const std::string story = story_grammar().expand("story", rng);
    EXPECT_EQ(story, story_grammar().expand("story", again));
    stories.insert(story);
  }
  EXPECT_EQ(stories.size(), 1000u);
}

}  // namespace
}  // namespace cbq
