// Models against golden values of transformers, computed in float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/open.h"
#include "error_text.h"
#include "models/model.h"
#include "shared_data.h"

namespace cbq {
namespace {

// The norm of the difference over the norm of the expected values.
template <class T>
double relative_error(const std::vector<T>& found, const std::vector<T>& expected) {
  if (found.size() != expected.size() || found.empty()) return INFINITY;
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double d = double(found[i]) - double(expected[i]);
    difference += d * d;
    norm += double(expected[i]) * double(expected[i]);
  }
  return std::sqrt(difference / norm);
}

template <class T>
std::vector<T> read(const SafetensorsFile& file, const std::string& name) {
  const auto bytes = file.bytes(name);
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

template <class T>
std::vector<T> part(const std::vector<T>& values, std::int64_t i, std::int64_t count) {
  return {values.begin() + i * count, values.begin() + (i + 1) * count};
}

// ids (N, T); logits (M, T, V) of the first M sequences; hidden_states (L+1, 1, T, C) of the first one, the last of
// them behind the final norm (and project_out).
void compare(const std::filesystem::path& folder, const std::filesystem::path& golden_file, double tolerance) {
  const auto ctx = cpu::open();
  const Model model(*ctx, folder);
  const ModelConfig& config = model.config();
  const SafetensorsFile golden(golden_file);
  const Shape shape = golden.info("logits").shape;
  const std::int64_t batch = shape[0], tokens = shape[1], width = tokens * config.hidden;
  ASSERT_EQ(shape[2], config.vocab);
  const auto ids = part(read<std::int32_t>(golden, "ids"), 0, batch * tokens);
  const auto states = read<float>(golden, "hidden_states");
  ASSERT_EQ(golden.info("hidden_states").shape[0], config.layers + 1);

  const Sequence sequence = make_sequence(*ctx, config, batch, 0, tokens, model.compute());
  const Tensor id_tensor = from_host<std::int32_t>(*ctx, {batch * tokens}, DType::i32, ids);
  Var x = embed(*ctx, config, model.outer(), id_tensor, batch, 0);
  for (std::int64_t i = 0; i < config.layers; ++i) {
    const auto found = to_host<float>(*ctx, x.value.slice(0, 0, tokens));
    const double error = relative_error(found, part(states, i, width));
    EXPECT_TRUE(error <= tolerance) << "hidden state " << i << ": " << error;
    const auto block = model.block(i);
    x = block_forward(*ctx, config, *block, x, sequence);
  }
  x = final_hidden(*ctx, config, model.outer(), x);
  if (config.embed_dim == config.hidden) {
    const auto found = to_host<float>(*ctx, x.value.slice(0, 0, tokens));
    const double error = relative_error(found, part(states, config.layers, width));
    EXPECT_TRUE(error <= tolerance) << "last hidden state: " << error;
  }
  const double error =
      relative_error(to_host<float>(*ctx, logits(*ctx, model.outer(), x.value)), read<float>(golden, "logits"));
  EXPECT_TRUE(error <= tolerance) << "logits: " << error;
}

class SharedModels : public testing::TestWithParam<const char*> {};

TEST_P(SharedModels, HiddenStatesAndLogitsAreTransformers) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
  const std::string name = GetParam();
  compare(shared_data() / "models" / name, shared_data() / "golden" / (name + ".golden.safetensors"), 1e-4);
}

// "llama-24m" as the name of a test.
std::string test_name(const testing::TestParamInfo<const char*>& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, SharedModels, testing::Values("llama-24m", "opt-24m", "stories-260k"), test_name);

class TinyModels : public testing::TestWithParam<const char*> {};

// Random weights; llama3: grouped queries, frequency scaling, a head size of its own, biases; opt-350m: norms behind
// the residual, projections around the embedding; opt-gelu: GELU, no biases.
TEST_P(TinyModels, HiddenStatesAndLogitsAreTransformers) {
  const std::filesystem::path folder = std::filesystem::path("tests/data/models") / GetParam();
  compare(folder, folder / "golden.safetensors", 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Golden, TinyModels, testing::Values("llama3", "mistral", "qwen2", "opt-350m", "opt-gelu"),
                         test_name);

}  // namespace
}  // namespace cbq
