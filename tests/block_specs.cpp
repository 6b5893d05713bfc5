#include <gtest/gtest.h>

#include "quant/config.h"
#include "tests/error_text.h"

namespace cbq {

namespace {

ModelConfig llama(std::int64_t layers, std::int64_t hidden, std::int64_t ffn) {
  ModelConfig model{};
  model.architecture = "LlamaForCausalLM";
  model.family = Family::llama;
  model.layers = layers, model.hidden = hidden, model.ffn = ffn;
  model.heads = model.kv_heads = 2, model.head_dim = hidden / 2;
  return model;
}

const LinearSpec& at(const std::vector<BlockSpec>& specs, std::size_t layer, LinearRole role) {
  return specs[layer][std::size_t(role)];
}

TEST(BlockSpecs, FollowTheConfig) {
  RunConfig config;
  config.wbits = 3, config.abits = 8, config.group_size = 64, config.sym = true, config.act_sym = false;
  const auto specs = block_specs(config, llama(2, 128, 256));
  ASSERT_EQ(specs.size(), 2u);
  for (const BlockSpec& block : specs)
    for (const LinearSpec& linear : block) {
      EXPECT_EQ(linear.weight.bits, 3);
      EXPECT_EQ(linear.weight.group_size, 64);
      EXPECT_EQ(linear.weight.symmetry, Symmetry::symmetric);
      EXPECT_EQ(linear.activation.bits, 8);
      EXPECT_EQ(linear.activation.symmetry, Symmetry::asymmetric);
    }
}

TEST(BlockSpecs, TheLastMatchingOverrideWins) {
  RunConfig config;
  config.overrides = {
      {"model.layers.?.mlp.*", 8, {}, {}, {}}, {"*.1.*down_proj", 2, {}, 32, true}, {"*o_proj", 16, 8, {}, {}}};
  const auto specs = block_specs(config, llama(2, 128, 256));
  EXPECT_EQ(at(specs, 0, LinearRole::q).weight.bits, 4);
  EXPECT_EQ(at(specs, 0, LinearRole::down).weight.bits, 8);
  EXPECT_EQ(at(specs, 0, LinearRole::down).weight.group_size, -1);
  EXPECT_EQ(at(specs, 1, LinearRole::gate).weight.bits, 8);
  EXPECT_EQ(at(specs, 1, LinearRole::down).weight.bits, 2);
  EXPECT_EQ(at(specs, 1, LinearRole::down).weight.group_size, 32);
  EXPECT_EQ(at(specs, 1, LinearRole::down).weight.symmetry, Symmetry::symmetric);
  EXPECT_EQ(at(specs, 1, LinearRole::o).weight.bits, 16);
  EXPECT_EQ(at(specs, 1, LinearRole::o).activation.bits, 8);
}

TEST(BlockSpecs, LayersThatDoNotExistStayAsTheyAre) {
  ModelConfig model = llama(1, 128, 256);
  model.family = Family::opt;
  EXPECT_EQ(at(block_specs(RunConfig(), model), 0, LinearRole::gate).weight.bits, 16);
}

TEST(BlockSpecs, GroupSizesMustDivide) {
  RunConfig config;
  config.group_size = 64;
  EXPECT_EQ(error_text([&] { block_specs(config, llama(1, 96, 256)); }),
            "group_size: expected a divisor of the layers' inputs, found 64 for model.layers.0.self_attn.q_proj (96), "
            "model.layers.0.self_attn.k_proj (96), model.layers.0.self_attn.v_proj (96) and 3 more; use 16, 32 or -1");
  config.overrides = {{"*self_attn*", {}, {}, 32, {}}, {"*gate_proj", {}, {}, 48, {}}, {"*up_proj", 16, {}, {}, {}}};
  EXPECT_EQ(error_text([&] { block_specs(config, llama(1, 96, 256)); }), "no error");
}

TEST(BlockSpecs, OverridesMustMatch) {
  RunConfig config;
  config.overrides = {{"*", 8, {}, {}, {}}, {"model.layers.12.*", 4, {}, {}, {}}};
  EXPECT_EQ(error_text([&] { block_specs(config, llama(12, 128, 256)); }),
            "overrides[1]: expected a pattern that matches a layer, found \"model.layers.12.*\"; names look like "
            "model.layers.0.mlp.down_proj");
}

TEST(BlockSpecs, LayersOfOneSiteShareActivationBits) {
  RunConfig config;
  config.overrides = {{"*k_proj", {}, 8, {}, {}}};
  EXPECT_EQ(error_text([&] { block_specs(config, llama(1, 128, 256)); }),
            "overrides: expected one abits for model.layers.0.self_attn.q_proj and model.layers.0.self_attn.k_proj, "
            "which read the same input, found 16 and 8; give both the same");
  config.overrides = {{"*[qkv]_proj", {}, 8, {}, {}}};
  EXPECT_NE(error_text([&] { block_specs(config, llama(1, 128, 256)); }), "no error");
  config.overrides = {{"*.?_proj", {}, 8, {}, {}}};
  EXPECT_EQ(error_text([&] { block_specs(config, llama(1, 128, 256)); }), "no error");
}

// Patterns that would take exponential time in a matcher that backtracks through every star.
TEST(BlockSpecs, ManyStars) {
  RunConfig config;
  std::string pattern;
  for (int i = 0; i < 2000; ++i) pattern += "*e";
  config.overrides = {{pattern + "#", 8, {}, {}, {}}};
  EXPECT_NE(error_text([&] { block_specs(config, llama(4, 128, 256)); }), "no error");
}

}  // namespace

}  // namespace cbq
