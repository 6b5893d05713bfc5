// Perplexity against the values that transformers gives, computed in float64, and the distances from a reference. The
// shared models are measured on a GPU too, where there is one.
#include "models/perplexity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/json.h"
#include "cpu/open.h"
#include "error_text.h"
#include "gpu_or_skip.h"
#include "models/dataset.h"
#include "shared_data.h"

namespace cbq {
namespace {

const auto kContext = cpu::open();

// A device with the type it computes in, and how far perplexity may be from the golden one.
struct Place {
  Device device;
  Precision precision;
  double tolerance;
  const char* name;
};
const Place kPlaces[] = {{Device::cpu, Precision::f32, 1e-4, "cpu"},
                         {Device::cuda, Precision::f32, 1e-4, "gpu_f32"},
                         {Device::cuda, Precision::bf16, 1e-3, "gpu_bf16"}};

Context& context_of(Device device) {
  if (device == Device::cpu) return *kContext;
  static const auto gpu = cuda::open();
  return *gpu;
}

template <class T>
std::vector<T> read(const SafetensorsFile& file, const std::string& name) {
  const auto bytes = file.bytes(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// log softmax of V logits, in double.
std::vector<double> log_softmax(const float* logits, std::int64_t vocab) {
  double largest = -INFINITY, total = 0;
  for (std::int64_t v = 0; v < vocab; ++v) largest = std::max(largest, double(logits[v]));
  for (std::int64_t v = 0; v < vocab; ++v) total += std::exp(logits[v] - largest);
  std::vector<double> result;
  for (std::int64_t v = 0; v < vocab; ++v) result.push_back(logits[v] - largest - std::log(total));
  return result;
}

// Windows of a golden file and their logits (M, T, V).
struct Golden {
  Windows windows;
  std::vector<float> logits;
  std::int64_t tokens, vocab;
  const float* row(std::size_t w, std::int64_t t) const {
    return &logits[std::size_t((std::int64_t(w) * tokens + t) * vocab)];
  }
};

Golden read_golden(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const Shape shape = file.info("logits").shape;
  Golden golden{{}, read<float>(file, "logits"), shape[1], shape[2]};
  const auto ids = read<std::int32_t>(file, "ids");
  for (std::int64_t w = 0; w < shape[0]; ++w)
    golden.windows.emplace_back(ids.begin() + w * golden.tokens, ids.begin() + (w + 1) * golden.tokens);
  return golden;
}

void expect_golden_loss(const std::filesystem::path& folder, const std::filesystem::path& golden_file) {
  const Golden golden = read_golden(golden_file);
  double loss = 0;  // mean over windows of the mean over the T-1 targets
  for (std::size_t w = 0; w < golden.windows.size(); ++w)
    for (std::int64_t t = 0; t + 1 < golden.tokens; ++t) {
      const auto target = std::size_t(golden.windows[w][std::size_t(t + 1)]);
      loss -= log_softmax(golden.row(w, t), golden.vocab)[target] / double(golden.tokens - 1);
    }
  const double wanted = std::exp(loss / double(golden.windows.size()));
  const Model model(*kContext, folder);
  std::int64_t last_done = 0, last_total = 0;
  const Quality quality = evaluate(*kContext, model, golden.windows, [&](std::int64_t done, std::int64_t total) {
    EXPECT_GT(done, last_done);
    last_done = done, last_total = total;
  });
  EXPECT_TRUE(std::abs(quality.perplexity / wanted - 1) <= 1e-5) << quality.perplexity << ", expected " << wanted;
  EXPECT_EQ(quality.tokens, std::ssize(golden.windows) * golden.tokens);
  EXPECT_FALSE(quality.kl || quality.top1);
  EXPECT_EQ(last_done, last_total);
  EXPECT_EQ(last_total, model.config().layers * std::ssize(golden.windows));
}

// "llama-24m" as a part of the name of a test.
std::string test_name(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class TinyPerplexity : public testing::TestWithParam<const char*> {};

TEST_P(TinyPerplexity, IsThatOfTheGoldenLogits) {
  const std::filesystem::path folder = std::filesystem::path("tests/data/models") / GetParam();
  expect_golden_loss(folder, folder / "golden.safetensors");
}

INSTANTIATE_TEST_SUITE_P(Golden, TinyPerplexity, testing::Values("llama3", "mistral", "qwen2", "opt-350m"),
                         [](const auto& model) { return test_name(model.param); });

class SharedPerplexity : public testing::TestWithParam<const char*> {};

TEST_P(SharedPerplexity, IsThatOfTheGoldenLogits) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
  const std::string name = GetParam();
  expect_golden_loss(shared_data() / "models" / name, shared_data() / "golden" / (name + ".golden.safetensors"));
}

constexpr const char* kSharedModels[] = {"llama-24m", "opt-24m", "stories-260k"};
INSTANTIATE_TEST_SUITE_P(Golden, SharedPerplexity, testing::ValuesIn(kSharedModels),
                         [](const auto& model) { return test_name(model.param); });

class WholeTexts : public testing::TestWithParam<std::tuple<const char*, Place>> {};

// The 24m models take minutes each on a CPU.
TEST_P(WholeTexts, HaveThePerplexityOfTransformers) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
  const auto& [model_name, place] = GetParam();
  const std::string name = model_name;
  CBQ_SKIP_WITHOUT_GPU(place.device);
  if (place.device == Device::cpu && name != "stories-260k" && !all_golden())
    GTEST_SKIP() << "takes minutes: set CBQ_GOLDEN=all";
  const auto golden = parse_json_file(shared_data() / "golden" / (name + ".golden.json")).at("ppl");
  Context& ctx = context_of(place.device);
  const Model model(ctx, shared_data() / "models" / name, compute_dtype(place.precision, place.device));
  const auto tokenizer = Tokenizer::open(model.folder());
  for (const auto& [text, expected] : golden.items()) {
    const auto file = shared_data() / "data" / text;
    const auto stream = token_stream(*tokenizer, read_texts(file), model.config().vocab);
    ASSERT_EQ(std::ssize(stream), expected.at("tokens").get<std::int64_t>()) << text;
    for (const std::int64_t seqlen : {256, 1024}) {
      const std::string key = "seq" + std::to_string(seqlen);
      if (!expected.contains("ppl_" + key)) continue;
      const auto windows = eval_windows(stream, seqlen, 0, file);
      ASSERT_EQ(std::ssize(windows), expected.at("windows_" + key).get<std::int64_t>());
      const double found = evaluate(ctx, model, windows).perplexity;
      const double wanted = expected.at("ppl_" + key).get<double>();
      std::printf("%s, %s, %s, %s: %.6f, expected %.6f\n", name.c_str(), text.c_str(), key.c_str(), place.name, found,
                  wanted);
      EXPECT_TRUE(std::abs(found / wanted - 1) <= place.tolerance)
          << text << " " << key << ": " << found << ", " << wanted;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, WholeTexts,
                         testing::Combine(testing::ValuesIn(kSharedModels), testing::ValuesIn(kPlaces)),
                         [](const auto& test) {
                           return test_name(std::get<0>(test.param)) + "_" + std::get<1>(test.param).name;
                         });

TEST(Measure, DistancesFromAReferenceAreThoseOfTheLogits) {
  const std::filesystem::path models = "tests/data/models";
  const Golden ours = read_golden(models / "mistral" / "golden.safetensors");
  const Golden theirs = read_golden(models / "llama3" / "golden.safetensors");
  ASSERT_EQ(ours.windows, theirs.windows);
  double kl = 0, equal = 0, rows = 0;
  for (std::size_t w = 0; w < ours.windows.size(); ++w)
    for (std::int64_t t = 0; t < ours.tokens; ++t, ++rows) {
      const auto p = log_softmax(theirs.row(w, t), ours.vocab), q = log_softmax(ours.row(w, t), ours.vocab);
      for (std::size_t v = 0; v < p.size(); ++v) kl += std::exp(p[v]) * (p[v] - q[v]);
      equal += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    }
  const Model model(*kContext, models / "mistral"), reference(*kContext, models / "llama3");
  const auto hidden_of = [&](const Model& m) {
    return hidden_states(
        *kContext, m, [&](std::int64_t i) { return m.block(i); }, ours.windows);
  };
  const auto hidden = hidden_of(model), reference_hidden = hidden_of(reference);
  const Quality quality = measure(*kContext, model, hidden, ours.windows, &reference, &reference_hidden);
  ASSERT_TRUE(quality.kl && quality.top1);
  EXPECT_TRUE(std::abs(*quality.kl / (kl / rows) - 1) <= 1e-4) << *quality.kl << ", expected " << kl / rows;
  EXPECT_EQ(*quality.top1, equal / rows);
  const Quality self = measure(*kContext, model, hidden, ours.windows, &model, &hidden);
  EXPECT_TRUE(std::abs(*self.kl) <= 1e-6) << *self.kl;
  EXPECT_EQ(*self.top1, 1.0);
}

// 100 windows fill several forwards and a part of one; each window must come out as it does alone.
TEST(HiddenStates, DoNotDependOnTheWindowsBesideThem) {
  const Model model(*kContext, "tests/data/models/opt-350m", DType::f64);
  Windows windows;
  for (std::int32_t w = 0; w < 100; ++w) {
    windows.emplace_back();
    for (std::int32_t t = 0; t < 30; ++t) windows.back().push_back((w * 7 + t * t) % 64);
  }
  const BlockSource blocks = [&](std::int64_t i) { return model.block(i); };
  const auto all = hidden_states(*kContext, model, blocks, windows);
  ASSERT_EQ(all.size(), windows.size());
  for (const std::size_t w : {0, 67, 68, 99}) {
    const auto alone = to_host<double>(*kContext, hidden_states(*kContext, model, blocks, {windows[w]})[0]);
    const auto found = to_host<double>(*kContext, all[w]);
    ASSERT_EQ(found.size(), alone.size());
    for (std::size_t i = 0; i < alone.size(); ++i) ASSERT_TRUE(std::abs(found[i] - alone[i]) <= 1e-12) << w;
  }
}

TEST(HiddenStates, RefuseIdsBeyondTheVocabularyAndUnequalWindows) {
  const Model model(*kContext, "tests/data/models/llama3");
  const auto error = [&](const Windows& windows) {
    return error_text([&] { evaluate(*kContext, model, windows); }, ErrorKind::failure);
  };
  EXPECT_NE(error({{1, 64}}).find("id 64"), std::string::npos);
  EXPECT_NE(error({{1, -1}}).find("id -1"), std::string::npos);
  EXPECT_NE(error({{1, 2}, {1}}).find("one length"), std::string::npos);
  EXPECT_NE(error({{1}}).find("at least 2"), std::string::npos);
  EXPECT_NE(error({}).find("at least 2"), std::string::npos);
}

}  // namespace
}  // namespace cbq
