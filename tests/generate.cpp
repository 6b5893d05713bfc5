// Generation: the cache against whole forwards, sampling, streaming of text.
#include "models/generate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "cpu/open.h"
#include "error_text.h"
#include "shared_data.h"

namespace cbq {
namespace {

const auto kContext = cpu::open();

class Cache : public testing::TestWithParam<const char*> {};

// Steps of several sizes, beyond the rows a cache starts with where the model has the positions, must give the logits
// that one step over all tokens gives.
TEST_P(Cache, GivesTheLogitsOfTheWholeText) {
  const Model model(*kContext, std::filesystem::path("tests/data/models") / GetParam(), DType::f64);
  Generator whole(*kContext, model), stepped(*kContext, model);
  const std::int64_t tokens = std::min<std::int64_t>(whole.max_tokens(), 200);
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < tokens; ++i) ids.push_back(std::int32_t((i * i + 3) % 64));
  const auto expected = whole.next_logits(ids);
  std::vector<float> found;
  for (std::int64_t done = 0, step = 1; done < tokens; done += step, step = step % 5 + 1) {
    step = std::min(step, tokens - done);
    found = stepped.next_logits(std::span(ids).subspan(std::size_t(done), std::size_t(step)));
  }
  EXPECT_EQ(stepped.tokens(), tokens);
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t v = 0; v < found.size(); ++v) EXPECT_TRUE(std::abs(found[v] - expected[v]) <= 1e-5) << v;
}

std::string test_name(const testing::TestParamInfo<const char*>& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Tiny, Cache, testing::Values("llama3", "mistral", "qwen2", "opt-350m", "opt-gelu"), test_name);

TEST(Generator, RefusesMoreTokensThanTheModelHasPositions) {
  const Model model(*kContext, "tests/data/models/opt-350m");
  Generator generator(*kContext, model);
  const std::vector<std::int32_t> ids(40, 5);
  generator.next_logits(ids);
  EXPECT_NE(error_text([&] { generator.next_logits(ids); }).find("max_position_embeddings"), std::string::npos);
}

TEST(SampleToken, GreedyTakesTheFirstOfTheLargest) {
  Rng rng(0);
  EXPECT_EQ(sample_token(std::vector<float>{1, 3, 2, 3}, {}, rng), 1);
}

// Frequencies of n draws against the probabilities; five standard deviations of a binomial share.
void expect_shares(const std::vector<float>& logits, const GenerationOptions& options,
                   const std::vector<double>& shares) {
  Rng rng(7);
  constexpr int kDraws = 20000;
  std::vector<int> counts(logits.size());
  for (int i = 0; i < kDraws; ++i) ++counts[std::size_t(sample_token(logits, options, rng))];
  for (std::size_t v = 0; v < shares.size(); ++v) {
    const double error = std::abs(counts[v] / double(kDraws) - shares[v]);
    EXPECT_TRUE(error <= 5 * std::sqrt(shares[v] * (1 - shares[v]) / kDraws)) << v << ": " << counts[v];
  }
}

TEST(SampleToken, DrawsWithTheProbabilitiesOfTheTopK) {
  const std::vector<float> logits = {0, std::log(3.0f), std::log(6.0f), -INFINITY};
  GenerationOptions options;
  options.temperature = 1;
  expect_shares(logits, options, {0.1, 0.3, 0.6, 0});
  options.top_k = 2;
  expect_shares(logits, options, {0, 1 / 3.0, 2 / 3.0, 0});
  options.top_k = 1;
  expect_shares(logits, options, {0, 0, 1, 0});
  options = {.temperature = 0.5};
  expect_shares(logits, options, {1 / 46.0, 9 / 46.0, 36 / 46.0, 0});
}

TEST(Generate, StreamsTheTextItReturns) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
  const Model model(*kContext, shared_data() / "models" / "stories-260k");
  const auto tokenizer = Tokenizer::open(model.folder());
  const auto run = [&](const GenerationOptions& options) {
    std::string streamed;
    const std::string text = generate(*kContext, model, *tokenizer, "Once upon a time", options,
                                      [&](std::string_view piece) { streamed += piece; });
    EXPECT_EQ(streamed, text);
    EXPECT_FALSE(text.empty());
    return text;
  };
  const std::string greedy = run({.max_tokens = 40});
  EXPECT_EQ(greedy.find(", there was a "), 0u) << greedy;
  EXPECT_EQ(run({.max_tokens = 40}), greedy);
  EXPECT_EQ(run({.max_tokens = 40, .temperature = 1, .top_k = 1}), greedy);
  const std::string drawn = run({.max_tokens = 40, .temperature = 1, .seed = 1});
  EXPECT_EQ(run({.max_tokens = 40, .temperature = 1, .seed = 1}), drawn);
  EXPECT_NE(run({.max_tokens = 40, .temperature = 1, .seed = 2}), drawn);
}

TEST(Generate, AGeneratorForgetsTheTextBefore) {
  const Model model(*kContext, "examples/tiny-llama/model");
  const auto tokenizer = Tokenizer::open(model.folder());
  const GenerationOptions options{.max_tokens = 12};
  Generator generator(*kContext, model, [&](std::int64_t i) { return model.block(i); });
  for (const char* prompt : {"Once upon a time", "Lily saw", "Once upon a time"})
    EXPECT_EQ(generate(generator, *tokenizer, prompt, options, {}),
              generate(*kContext, model, *tokenizer, prompt, options, {}));
}

TEST(Generate, RefusesOptionsAndPromptsOutOfRange) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
  const Model model(*kContext, shared_data() / "models" / "stories-260k");
  const auto tokenizer = Tokenizer::open(model.folder());
  const auto error = [&](const std::string& prompt, const GenerationOptions& options) {
    return error_text([&] { generate(*kContext, model, *tokenizer, prompt, options, {}); });
  };
  EXPECT_EQ(error("a", {.max_tokens = 0}).find("max_tokens"), 0u);
  EXPECT_EQ(error("a", {.temperature = NAN}).find("temperature"), 0u);
  EXPECT_EQ(error("a", {.temperature = -1}).find("temperature"), 0u);
  EXPECT_EQ(error("a", {.top_k = -1}).find("top_k"), 0u);
  std::string story;
  for (int i = 0; i < 600; ++i) story += "the cat ";
  EXPECT_EQ(error(story, {}).find("prompt"), 0u);
}

}  // namespace
}  // namespace cbq
