// Damaged descriptions of quantised layers: each is read, and then every scheme that it gives is one that this program
// knows, or is refused in one line. The same with a layer's integers beside it.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/bitpack.h"
#include "cpu/open.h"
#include "models/weights.h"
#include "tests/checkpoint_files.h"
#include "tests/mutate.h"
#include "tests/read_tally.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr int kTexts = 30'000, kLayers = 3'000;
const std::string kName = "model.layers.0.mlp.up_proj";
constexpr std::int64_t kOut = 32, kIn = 64, kGroup = 8;

// What config.json holds in the ways there are to describe a layer of 4 bits in groups of kGroup.
const std::vector<std::string>& seeds() {
  static const std::vector<std::string> texts = {
      R"({"dtype": "float16", "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 8, "sym": true,
 "desc_act": false, "checkpoint_format": "gptq_v2", "pack_dtype": "int32", "lm_head": false, "damp_percent": 0.01,
 "dynamic": {"-:^lm_head$": {}, "+:.*up_proj": {"bits": 4, "group_size": 8, "sym": false}}}})",
      R"({"dtype": "float16", "quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized",
 "ignore": ["lm_head"], "kv_cache_scheme": null, "config_groups": {"group_0": {"targets": ["Linear", "re:.*up_proj"],
 "format": "pack-quantized", "output_activations": null, "weights": {"num_bits": 4, "type": "int", "symmetric": true,
 "strategy": "group", "group_size": 8, "dynamic": false, "actorder": null}, "input_activations": {"num_bits": 8,
 "type": "int", "symmetric": true, "strategy": "token", "dynamic": true}}}},
 "cbq": {"kv_bits": 8, "kv_symmetric": false, "activation_factor": {"model.layers.0.mlp.up_proj": 0.9}}})",
      R"({"dtype": "float16", "cbq": {"kv_bits": 4, "activations": [{"num_bits": 4, "symmetric": false,
 "targets": ["model.layers.0.mlp.up_proj"]}], "activation_factor": {"model.layers.0.mlp.up_proj": 1.5}}})"};
  return texts;
}

// The layer as all of these formats store it: integers 0, steps 1.
std::vector<StoredTensor> layer() {
  const std::int64_t groups = kIn / kGroup;
  const auto zeros = [](std::int64_t count) { return std::vector<std::int32_t>(std::size_t(count)); };
  const std::vector<std::uint16_t> steps(std::size_t(groups * kOut), f32_to_f16(1));
  const std::vector<std::uint16_t> dense(std::size_t(kOut * kIn), f32_to_f16(1));
  const std::vector<std::int64_t> shape = {kOut, kIn};
  std::vector<std::int32_t> group_of;
  for (std::int64_t i = 0; i < kIn; ++i) group_of.push_back(std::int32_t(i / kGroup));
  const std::int64_t row = word_count(kIn, 4), column = word_count(kOut, 4);
  return {stored(kName + ".qweight", DType::i32, {row, kOut}, zeros(row * kOut)),
          stored(kName + ".qzeros", DType::i32, {groups, column}, zeros(groups * column)),
          stored(kName + ".scales", DType::f16, {groups, kOut}, steps),
          stored(kName + ".g_idx", DType::i32, {kIn}, group_of),
          stored(kName + ".weight_packed", DType::i32, {kOut, row}, zeros(row * kOut)),
          stored(kName + ".weight_scale", DType::f16, {kOut, groups}, steps),
          stored(kName + ".weight_shape", DType::i64, {2}, shape),
          stored(kName + ".weight", DType::f16, {kOut, kIn}, dense)};
}

bool is_known(const StoredScheme& scheme) {
  return ((scheme.wbits >= 1 && scheme.wbits <= 8) || scheme.wbits == 16) &&
         (scheme.group_size == -1 || scheme.group_size > 0) && scheme.abits >= 2 && scheme.abits <= 16 &&
         std::isfinite(scheme.activation_factor) && scheme.activation_factor > 0;
}

void expect_both(const test::ReadTally& tally, int cases) {
  EXPECT_GT(tally.opened, cases / 20);
  EXPECT_GT(tally.refused, cases / 20);
}

TEST(FuzzQuantization, Descriptions) {
  test::ReadTally tally;
  for (int i = 0; i < kTexts && !HasFailure(); ++i) {
    test::Rng rng{std::uint64_t(i)};
    const std::string text = test::mutate(seeds()[std::size_t(i) % seeds().size()], rng);
    tally.attempt(i, [&] {
      const json root = parse_json_text(text, "config.json");
      require_input(root.is_object(), "config.json: expected an object");
      const bool has_method = root.contains("quantization_config");
      const json& object = has_method ? root["quantization_config"] : root.contains("cbq") ? root["cbq"] : root;
      const QuantizationConfig config =
          has_method ? QuantizationConfig(object, "q") : QuantizationConfig::of_dense(object, "cbq");
      for (const std::string& name : {kName, std::string("lm_head"), std::string()})
        EXPECT_TRUE(is_known(config.scheme(name))) << "case " << i << ": " << text;
    });
  }
  expect_both(tally, kTexts);
}

TEST(FuzzQuantization, LayersBesideThem) {
  const auto ctx = cpu::open(1);
  const TempFolder folder;
  write_shard(folder / "model.safetensors", layer());
  const auto load = [&](const std::string& text) {
    write_file(folder / "config.json", text);
    const Checkpoint checkpoint(folder.path());
    EXPECT_TRUE(is_known(checkpoint.scheme(kName)));
    const Tensor w = checkpoint.load_weight(*ctx, kName, {kOut, kIn}, DType::f32);
    for (const float value : to_host<float>(*ctx, w)) ASSERT_TRUE(std::isfinite(value));
  };
  for (std::size_t i = 0; i + 1 < seeds().size(); ++i) load(seeds()[i]);  // both describe the packed layer
  test::ReadTally tally;
  for (int i = 0; i < kLayers && !HasFailure(); ++i) {
    test::Rng rng{std::uint64_t(i)};
    tally.attempt(i, [&] { load(test::mutate(seeds()[std::size_t(i) % seeds().size()], rng)); });
  }
  expect_both(tally, kLayers);
}

}  // namespace
}  // namespace cbq
