// The rounding parametrisations: where they start, what they learn, how they harden, and how a run goes on with them.
#include "quant/rounding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/kernels.h"
#include "cpu/open.h"
#include "quant/layer_statistics.h"

namespace cbq {
namespace {

constexpr RoundingKind kKinds[] = {RoundingKind::nearest, RoundingKind::lora, RoundingKind::lora_ste,
                                   RoundingKind::dense,   RoundingKind::sign, RoundingKind::weights};

class Rounding : public testing::Test {
 protected:
  Tensor weight(std::int64_t out = 33, std::int64_t in = 64) {
    Rng rng(11);
    std::vector<float> values(static_cast<std::size_t>(out * in));
    for (float& v : values) v = float(0.05 * rng.normal());
    return from_host<float>(*ctx, {out, in}, DType::f32, values);
  }
  WeightRounding make(RoundingKind kind, const WeightSpec& spec, std::uint64_t seed = 1) {
    Rng rng(seed);
    return WeightRounding(*ctx, weight(), spec, {.kind = kind}, rng);
  }
  double moved_share(const WeightRounding& rounding) {
    const HardWeight hard = rounding.harden(*ctx, DType::f32);
    return layer_statistics(*ctx, weight(), hard, DType::f32, rounding.hard_rounder()).moved_share;
  }
  std::unique_ptr<Context> ctx = cpu::open(1, FreshMemory::nan_bytes);
};

TEST_F(Rounding, EveryKindStartsAtRoundToNearest) {
  for (const int bits : {2, 3, 4, 5, 6, 8})
    for (const std::int64_t group : {std::int64_t{-1}, std::int64_t{16}})
      for (const Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric}) {
        const WeightSpec spec{bits, group, symmetry};
        const auto nearest =
            to_host<std::uint8_t>(*ctx, make(RoundingKind::nearest, spec).harden(*ctx, DType::f16).codes);
        for (const RoundingKind kind : kKinds) {
          const WeightRounding rounding = make(kind, spec);
          EXPECT_EQ(to_host<std::uint8_t>(*ctx, rounding.harden(*ctx, DType::f16).codes), nearest)
              << int(kind) << " " << bits;
          EXPECT_EQ(moved_share(rounding), 0) << int(kind) << " " << bits << " " << group << " " << int(symmetry);
        }
      }
}

// A start other than the weight: its nearest codes on the grid of the weight, the same for every kind.
TEST_F(Rounding, AZeroOffsetHardensToTheNearestCodesOfTheStart) {
  Rng rng(5);
  std::vector<float> values = to_host<float>(*ctx, weight());
  for (float& v : values) v += float(0.02 * rng.normal());
  const Tensor start = from_host<float>(*ctx, weight().shape(), DType::f32, values);
  for (const RoundingKind kind : kKinds) {
    WeightRounding rounding = make(kind, {4, 16, Symmetry::asymmetric});
    const HardWeight before = rounding.harden(*ctx, DType::f16);
    rounding.start_from_gptq(*ctx, start, DType::f16);
    const HardWeight after = rounding.harden(*ctx, DType::f16);
    Tensor nearest(*ctx, start.shape(), DType::u8);
    ctx->kernels->weight_codes(*ctx, nearest, {start, before.grid(), Rounder::straight_through, {}});
    EXPECT_EQ(to_host<float>(*ctx, after.scale), to_host<float>(*ctx, before.scale)) << int(kind);
    EXPECT_EQ(to_host<std::uint8_t>(*ctx, after.codes), to_host<std::uint8_t>(*ctx, nearest)) << int(kind);
    EXPECT_NE(to_host<std::uint8_t>(*ctx, after.codes), to_host<std::uint8_t>(*ctx, before.codes)) << int(kind);
    if (kind == RoundingKind::sign) continue;  // whose clips also move the zero point
    Parameter* steps = rounding.scale_parameters()[0];
    steps->value = full(*ctx, steps->value.shape(), DType::f32, std::log(2));
    const HardWeight doubled = rounding.harden(*ctx, DType::f16);
    EXPECT_EQ(to_host<std::uint8_t>(*ctx, doubled.codes), to_host<std::uint8_t>(*ctx, nearest)) << int(kind);
    const auto s = to_host<float>(*ctx, doubled.scale), s0 = to_host<float>(*ctx, before.scale);
    for (std::size_t i = 0; i < s.size(); ++i) EXPECT_NEAR(s[i], 2 * s0[i], 1e-3 * double(s0[i])) << int(kind);
  }
}

// w = 0 1 2 3 in two bits: the whole range has step 1 and zero point 0.
TEST_F(Rounding, LayerStatisticsByHand) {
  const Tensor w = from_host<float>(*ctx, {1, 4}, DType::f32, std::vector<float>{0, 1, 2, 3});
  const auto statistics = [&](double scale, std::vector<std::uint8_t> codes) {
    const HardWeight hard{{2, -1, Symmetry::asymmetric},
                          from_host_bytes(*ctx, {1, 4}, DType::u8, std::as_bytes(std::span(codes))),
                          full(*ctx, {1, 1}, DType::f32, scale),
                          full(*ctx, {1, 1}, DType::f32, 0)};
    return layer_statistics(*ctx, w, hard, DType::f32, Rounder::straight_through);
  };
  const LayerStatistics moved = statistics(1, {0, 1, 2, 2});
  EXPECT_NEAR(moved.error, 1 / std::sqrt(14.0), 1e-7);
  EXPECT_EQ(moved.nearest_error, 0);
  EXPECT_EQ(moved.moved_share, 0.25);
  EXPECT_EQ(moved.clip_median, 1);
  const LayerStatistics clipped = statistics(0.5, {0, 2, 3, 3});  // 0 1 1.5 1.5
  EXPECT_NEAR(clipped.error, std::sqrt((0.25 + 2.25) / 14), 1e-7);
  EXPECT_EQ(clipped.nearest_error, clipped.error);
  EXPECT_EQ(clipped.moved_share, 0);
  EXPECT_EQ(clipped.clip_lowest, 0.5);
  EXPECT_EQ(clipped.clip_highest, 0.5);
}

TEST_F(Rounding, SoftKindsStartAtTheWeightsThemselves) {
  const WeightSpec spec{4, -1, Symmetry::asymmetric};
  Rng rng(1);
  for (const RoundingKind kind : {RoundingKind::lora, RoundingKind::dense}) {  // from min_max nothing is clipped
    const WeightRounding rounding(*ctx, weight(), spec, {.kind = kind, .start = Start::min_max}, rng);
    const auto soft =
        to_host<float>(*ctx, ops::quantise_weight(*ctx, rounding.vars(*ctx, nullptr, Hardness::soft)).value);
    const auto w = to_host<float>(*ctx, weight());
    const auto scale = to_host<float>(*ctx, rounding.harden(*ctx, DType::f32).scale);
    for (std::size_t i = 0; i < w.size(); ++i)
      ASSERT_TRUE(std::abs(soft[i] - w[i]) <= 0.51f * scale[i / 64])
          << i;  // the zero point rounds the ends of the range
    double off = 0;
    for (std::size_t i = 0; i < w.size(); ++i) off += std::abs(soft[i] - w[i]) > 1e-4f * scale[i / 64];
    EXPECT_LT(off / double(w.size()), 0.05);
  }
}

TEST_F(Rounding, OnlySoftWeightsHaveARegulariser) {
  const WeightRounding r = make(RoundingKind::lora, {4, -1, Symmetry::symmetric});
  for (const Hardness hardness : {Hardness::soft, Hardness::hard}) {
    ops::WeightQuantiserVars v = r.vars(*ctx, nullptr, hardness);
    v.regulariser = full(*ctx, {2}, DType::f32, 2);
    if (hardness == Hardness::soft)
      EXPECT_NO_THROW(ops::quantise_weight(*ctx, v));
    else
      EXPECT_THROW(ops::quantise_weight(*ctx, v), Error);
  }
}

TEST_F(Rounding, HardensToWhatTheHardForwardComputes) {
  for (const RoundingKind kind : kKinds) {
    const WeightRounding rounding = make(kind, {3, 32, Symmetry::asymmetric});
    const auto forward =
        to_host<float>(*ctx, ops::quantise_weight(*ctx, rounding.vars(*ctx, nullptr, Hardness::hard)).value);
    const auto hard = to_host<float>(*ctx, dequantise(*ctx, rounding.harden(*ctx, DType::f32), DType::f32, DType::f32));
    for (std::size_t i = 0; i < forward.size(); ++i)  // steps are rounded to f16
      ASSERT_TRUE(std::abs(hard[i] - forward[i]) <= 0x1.01p-11f * std::abs(forward[i])) << int(kind) << " " << i;
  }
}

TEST_F(Rounding, DequantisedValuesAreOfTheStoredDType) {
  for (const DType stored : {DType::f16, DType::bf16}) {
    const HardWeight hard = make(RoundingKind::nearest, {4, 16, Symmetry::symmetric}).harden(*ctx, stored);
    for (const Tensor& t : {hard.scale, dequantise(*ctx, hard, stored, DType::f32)})
      EXPECT_EQ(to_host<float>(*ctx, convert(*ctx, t, stored)), to_host<float>(*ctx, t));
    const auto q = to_host<std::uint8_t>(*ctx, hard.codes);
    const auto s = to_host<float>(*ctx, hard.scale), z = to_host<float>(*ctx, hard.zero);
    const auto w_hat = to_host<float>(*ctx, dequantise(*ctx, hard, stored, DType::f32));
    for (std::size_t i = 0; i < q.size(); ++i) {
      const float exact = s[i / 16] * (float(q[i]) - z[i / 16]);
      ASSERT_EQ(w_hat[i], stored == DType::f16 ? f16_to_f32(f32_to_f16(exact)) : bf16_to_f32(f32_to_bf16(exact)));
    }
  }
}

// GPTQ files keep steps in f16, dense and compressed-tensors ones in the dtype of the checkpoint.
TEST_F(Rounding, StepSizesAreOfF16TooAndStayPositive) {
  for (const DType stored : {DType::f16, DType::bf16, DType::f32})
    for (const double size : {1e-9, 1e-6, 3e-5, 1e-2, 1e3}) {
      std::vector<float> values(64);
      Rng draws(4);
      for (float& v : values) v = float(size * draws.normal());
      Rng rng(1);
      const WeightRounding rounding(*ctx, from_host<float>(*ctx, {4, 16}, DType::f32, values),
                                    {4, -1, Symmetry::symmetric}, {}, rng);
      for (const float s : to_host<float>(*ctx, rounding.harden(*ctx, stored).scale)) {
        EXPECT_GT(s, 0);
        EXPECT_EQ(s, f16_to_f32(f32_to_f16(s))) << stored << " " << size;
        if (stored == DType::bf16) {
          EXPECT_EQ(s, bf16_to_f32(f32_to_bf16(s))) << size;
        }
      }
    }
}

TEST_F(Rounding, StateRestoresEverythingLearned) {
  for (const RoundingKind kind : kKinds) {
    WeightRounding learned = make(kind, {4, 16, Symmetry::asymmetric});
    Rng rng(99);
    for (Parameter* p : learned.rounding_parameters()) {
      std::vector<float> values(std::size_t(p->value.count()));
      for (float& v : values) v = float(0.3 * rng.normal());
      p->value = from_host<float>(*ctx, p->value.shape(), DType::f32, values);
    }
    for (Parameter* p : learned.scale_parameters()) p->value = full(*ctx, p->value.shape(), DType::f32, 0.9);
    WeightRounding restored = make(kind, {4, 16, Symmetry::asymmetric}, 2);
    restored.restore(learned.state());
    const HardWeight a = learned.harden(*ctx, DType::f16), b = restored.harden(*ctx, DType::f16);
    EXPECT_EQ(to_host<std::uint8_t>(*ctx, a.codes), to_host<std::uint8_t>(*ctx, b.codes)) << int(kind);
    EXPECT_EQ(to_host<float>(*ctx, a.scale), to_host<float>(*ctx, b.scale)) << int(kind);
    if (!learned.rounding_parameters().empty()) {
      EXPECT_GT(moved_share(learned), 0) << int(kind);
    }
  }
  EXPECT_THROW(make(RoundingKind::dense, {4, -1, Symmetry::symmetric}).restore({}), Error);
}

}  // namespace
}  // namespace cbq
