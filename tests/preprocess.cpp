// Coarse-to-fine preprocessing: detection on worked examples and edge cases, folding preserves the function.
#include "quant/preprocess.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "cpu/open.h"

namespace cbq {
namespace {

constexpr double kNone = std::numeric_limits<double>::infinity();

TEST(DetectOutliers, WorkedExample) {
  // Quartiles of 1 .. 8 and 20, 40: Q1 = 3.25, Q3 = 7.75, T = 7.75 + 1.5 * 4.5 = 14.5. Candidates 20 and 40.
  const std::vector<float> values{1, 2, 3, 4, 5, 6, 7, 8, 20, 40};
  // paper: split 0 scores (20-8)^2 = 144, split 1 (40-20)^2 - Var(20) = 400: only 40 is an outlier.
  const OutlierSplit paper = detect_outliers(values, {CfpPreset::paper, 1.5, 1});
  EXPECT_EQ(paper.outliers, 1);
  EXPECT_EQ(paper.threshold, 20);
  EXPECT_EQ(paper.reserved_max, 20);
  // msmodelslim: quantiles 20/80 %: 2.8 and 10.4, T = 21.8; the only candidate is 40, the gap reaches down to 20.
  const OutlierSplit other = detect_outliers(values, {CfpPreset::msmodelslim, 1.5, 1});
  EXPECT_EQ(other.outliers, 1);
  EXPECT_EQ(other.reserved_max, 20);
}

TEST(DetectOutliers, VarianceOfTheReservedCounts) {
  // Candidates 20, 30, 31, 44. paper: gaps squared 12^2, 10^2, 1, 13^2 less Var{20}=0, Var{20,30}=25,
  // Var{20,30,31}=24.7: 144, 100, -24, 144.3. With lambda2 = 2 the last falls to 119.7 and split 0 wins.
  std::vector<float> values;
  for (int i = 0; i < 100; ++i) values.push_back(float(8.0 * i / 99));
  values.insert(values.end(), {20, 30, 31, 44});
  EXPECT_EQ(detect_outliers(values, {CfpPreset::paper, 1.5, 1}).outliers, 1);
  EXPECT_EQ(detect_outliers(values, {CfpPreset::paper, 1.5, 2}).outliers, 4);
}

TEST(DetectOutliers, EdgeCases) {
  for (const CfpPreset preset : {CfpPreset::paper, CfpPreset::msmodelslim}) {
    const CfpOptions options{preset, 1.5, 1};
    EXPECT_EQ(detect_outliers({}, options).outliers, 0);
    const std::vector<float> one{3}, equal(50, 2.5f), zeros(50, 0.0f), even{1, 2, 3, 4};
    for (const auto& values : {one, equal, zeros, even}) {
      const OutlierSplit split = detect_outliers(values, options);
      EXPECT_EQ(split.outliers, 0);
      EXPECT_EQ(split.threshold, kNone);
    }
    std::vector<float> single(50, 1.0f);
    single.push_back(9);
    const OutlierSplit split = detect_outliers(single, options);
    EXPECT_EQ(split.outliers, 1);
    EXPECT_EQ(split.reserved_max, 1);
  }
}

ModelConfig small_config(Family family) {
  ModelConfig c{};
  c.family = family;
  c.layers = 1, c.hidden = 24, c.ffn = 40, c.heads = 4, c.head_dim = 6, c.vocab = 16, c.max_positions = 32;
  c.kv_heads = family == Family::llama ? 2 : 4;
  c.norm_eps = 1e-5;
  c.activation = family == Family::llama ? Activation::silu : Activation::relu;
  c.qkv_bias = c.o_bias = c.mlp_bias = family == Family::opt;
  c.embed_dim = c.hidden;
  c.dtype = DType::f32;
  return c;
}

Tensor randn(Context& ctx, Shape shape, Rng& rng, double scale, double offset = 0) {
  std::vector<double> values(static_cast<std::size_t>(shape.count()));
  for (double& v : values) v = offset + scale * rng.normal();
  return from_host<double>(ctx, shape, DType::f64, values);
}

BlockWeights random_weights(Context& ctx, const ModelConfig& config, Rng& rng) {
  BlockWeights w;
  for (const LinearRole role : linear_roles(config.family)) {
    w[role].weight = randn(ctx, weight_shape(config, role), rng, 0.2);
    if (has_bias(config, role)) w[role].bias = randn(ctx, {weight_shape(config, role)[0]}, rng, 0.1);
  }
  for (Norm* norm : {&w.attention_norm, &w.mlp_norm}) {
    norm->weight = randn(ctx, {config.hidden}, rng, 0.1, 1);
    if (config.family == Family::opt) norm->bias = randn(ctx, {config.hidden}, rng, 0.1);
  }
  return w;
}

TEST(ApplyCfp, FoldingPreservesTheFunction) {
  const auto ctx = cpu::open(1, FreshMemory::nan_bytes);
  for (const Family family : {Family::llama, Family::opt}) {
    const ModelConfig config = small_config(family);
    Rng rng(3);
    const BlockWeights weights = random_weights(*ctx, config, rng);
    const Tensor x = randn(*ctx, {9, config.hidden}, rng, 1);
    const Sequence sequence = make_sequence(*ctx, config, 1, 0, 9, DType::f64);
    DenseBlock original(config, weights);
    const auto expected = to_host<double>(*ctx, block_forward(*ctx, config, original, x, sequence).value);
    for (int site = 0; site < kSites; ++site) {
      ASSERT_TRUE(can_fold(config, Site(site)));
      CfpPlan plan;
      auto& scale = plan.site_scale[std::size_t(site)];
      scale.assign(std::size_t(weight_shape(config, linear_roles(family, Site(site))[0])[1]), 1);
      for (std::size_t c = 0; c < scale.size(); c += 5) scale[c] = float(2 + rng.below(7));
      if (Site(site) == Site::attention_out)  // query heads of one group agree
        for (std::int64_t c = 0; c < config.heads * config.head_dim; ++c) {
          const std::int64_t group = config.heads / config.kv_heads, head = c / config.head_dim / group * group;
          scale[std::size_t(c)] = float(1 + (head * config.head_dim + c % config.head_dim) % 4);
        }
      BlockWeights folded = weights;
      apply_cfp(*ctx, config, folded, plan, DType::f64);
      DenseBlock block(config, folded);
      const auto y = to_host<double>(*ctx, block_forward(*ctx, config, block, x, sequence).value);
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_TRUE(std::abs(y[i] - expected[i]) <= 1e-6 * (1 + std::abs(expected[i])))
            << "site " << site << ": " << y[i] << " " << expected[i];
      EXPECT_NE(to_host<double>(*ctx, folded[linear_roles(family, Site(site))[0]].weight.value),
                to_host<double>(*ctx, weights[linear_roles(family, Site(site))[0]].weight.value));
    }
  }
}

TEST(ApplyCfp, TruncatesWeightsKeepingTheSign) {
  const auto ctx = cpu::open(1);
  const ModelConfig config = small_config(Family::llama);
  Rng rng(4);
  BlockWeights weights = random_weights(*ctx, config, rng);
  CfpPlan plan;
  plan.truncation[std::size_t(LinearRole::up)] = 0.1;
  const auto before = to_host<double>(*ctx, weights[LinearRole::up].weight.value);
  apply_cfp(*ctx, config, weights, plan, DType::f64);
  const auto after = to_host<double>(*ctx, weights[LinearRole::up].weight.value);
  for (std::size_t i = 0; i < after.size(); ++i)
    ASSERT_EQ(after[i], std::abs(before[i]) <= 0.1 ? before[i] : std::copysign(0.1, before[i]));
}

TEST(PlanCfp, ScalesOnlyOutlierChannels) {
  const auto ctx = cpu::open(1);
  const ModelConfig config = small_config(Family::llama);
  Rng rng(5);
  const BlockWeights weights = random_weights(*ctx, config, rng);
  BlockRanges ranges;
  ranges[std::size_t(Site::mlp_in)].high.assign(24, 1.0f);
  ranges[std::size_t(Site::mlp_in)].low.assign(24, -2.0f);
  ranges[std::size_t(Site::mlp_in)].low[7] = -50;
  RunConfig run;
  run.cfp = CfpPreset::paper;
  const CfpPlan paper = plan_cfp(*ctx, config, weights, ranges, run);
  const auto& s = paper.site_scale[std::size_t(Site::mlp_in)];
  ASSERT_EQ(s.size(), 24u);
  for (std::size_t c = 0; c < 24; ++c) EXPECT_FLOAT_EQ(s[c], c == 7 ? 5.0f : 1.0f) << c;  // sqrt(50 / 2)
  EXPECT_TRUE(paper.site_scale[std::size_t(Site::attention_in)].empty());
  run.cfp = CfpPreset::msmodelslim;
  const CfpPlan other = plan_cfp(*ctx, config, weights, ranges, run);
  EXPECT_FLOAT_EQ(other.site_scale[std::size_t(Site::mlp_in)][7], std::pow(25.0f, 0.7f));
  const CfpPlan read = CfpPlan::from_state(*ctx, other.state(*ctx));
  EXPECT_EQ(read.site_scale, other.site_scale);
  EXPECT_EQ(read.truncation, other.truncation);
}

TEST(CanFold, NotThroughPostNormsNorGelu) {
  ModelConfig opt = small_config(Family::opt);
  opt.pre_norm = false;
  EXPECT_FALSE(can_fold(opt, Site::attention_in));
  EXPECT_FALSE(can_fold(opt, Site::mlp_in));
  EXPECT_TRUE(can_fold(opt, Site::mlp_out));
  opt.activation = Activation::gelu;
  EXPECT_FALSE(can_fold(opt, Site::mlp_out));
}

}  // namespace
}  // namespace cbq
