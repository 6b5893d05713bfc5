// The example models are what examples/README.md says of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <set>
#include <sstream>

#include "core/files.h"
#include "cpu/open.h"
#include "models/dataset.h"
#include "models/generate.h"
#include "models/perplexity.h"
#include "quant/config.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

class Example : public testing::TestWithParam<const char*> {
 protected:
  fs::path folder() const { return fs::path("examples") / GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Examples, Example, testing::Values("tiny-llama", "tiny-opt"), [](const auto& test) {
  std::string name = test.param;
  std::ranges::replace(name, '-', '_');
  return name;
});

// The last number of the table's row that starts with the model's name.
double stated_perplexity(const std::string& name) {
  std::istringstream readme(read_file("examples/README.md"));
  for (std::string line; std::getline(readme, line);)
    if (line.starts_with("| " + name + " |")) return std::stod(line.substr(line.rfind('|', line.size() - 2) + 1));
  return std::nan("");
}

// Lower-case words; a last word that may be cut off is left out.
std::vector<std::string> words(const std::string& text) {
  std::vector<std::string> result;
  std::string word;
  for (const char c : text) {
    if (std::isalpha(static_cast<unsigned char>(c)))
      word += char(std::tolower(static_cast<unsigned char>(c)));
    else if (!word.empty())
      result.push_back(std::exchange(word, ""));
  }
  return result;
}

TEST_P(Example, HasTheStatedPerplexity) {
  const auto ctx = cpu::open(1);
  const Model model(*ctx, folder() / "model");
  const RunConfig config = read_run_config(folder() / "config.json", {});
  ASSERT_EQ(config.eval.data.size(), 1u);
  const fs::path file = config.eval.data[0];
  const auto stream = token_stream(*Tokenizer::open(model.folder()), read_texts(file), model.config().vocab);
  const auto windows = eval_windows(stream, config.eval.seqlen, config.eval.windows, file);
  const double found = evaluate(*ctx, model, windows).perplexity, stated = stated_perplexity(GetParam());
  EXPECT_TRUE(std::abs(found / stated - 1) <= 0.01) << found << ", README says " << stated;
}

TEST_P(Example, TellsStoriesInTheWordsOfTheGrammar) {
  const auto ctx = cpu::open(1);
  const Model model(*ctx, folder() / "model");
  const auto tokenizer = Tokenizer::open(model.folder());
  std::set<std::string> known;
  for (const char* file : {"calib.jsonl", "eval.jsonl"})
    for (const std::string& text : read_texts(folder() / file).texts)
      for (const std::string& word : words(text)) known.insert(word);
  EXPECT_GT(known.size(), 300u);
  for (const double temperature : {0.0, 0.7}) {
    const GenerationOptions options{96, temperature, 0, 1};
    const std::string text = generate(*ctx, model, *tokenizer, "Once upon a time", options, [](std::string_view) {});
    const std::vector<std::string> told = words(text);
    EXPECT_GE(told.size(), 20u) << text;
    const auto unknown = std::ranges::count_if(told, [&](const std::string& word) { return !known.contains(word); });
    EXPECT_LE(double(unknown), 0.05 * double(told.size())) << text;
  }
}

}  // namespace
}  // namespace cbq
