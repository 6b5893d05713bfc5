// Rounding of weights on the GPU against the CPU: equal codes on inputs clear of ties, equal bits between the kernels
// of the GPU that must agree, gradients against f64.
#include <algorithm>
#include <bit>
#include <cmath>

#include "tests/cuda_types.h"
#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

constexpr double kTolerance = 2e-5;  // of f32 sums, as on the CPU

// A problem whose weights are exact in `dtype` and still clear of ties.
RoundingProblem problem_in(const RoundingSpec& spec, DType dtype, std::uint64_t seed) {
  RoundingProblem p = random_problem(spec, seed);
  Rng rng(seed + 1);
  const double levels = double(1 << spec.bits);
  for (std::size_t i = 0; i < p.w.size(); ++i) {
    const std::size_t g = p.group_of(i);
    p.w[i] = in_type(dtype, p.w[i]);
    while (!p.safe(i)) p.w[i] = in_type(dtype, p.decides(i) * (levels * (1.4 * rng.uniform() - 0.2) - p.zero[g]));
  }
  return p;
}

// The tensors of a problem: w in `dtype`, all else in f32, or all in f64 on the CPU.
RoundingTensors tensors_on(Context& ctx, const RoundingProblem& p, DType dtype) {
  RoundingTensors t(ctx, p, dtype == DType::f64 ? DType::f64 : DType::f32);
  t.w = from_host<double>(ctx, t.w.shape(), dtype, p.w);
  return t;
}

// Those of the CPU's tests, and sizes of several tiles: groups of one, several and parts of a warp's columns, ranks
// that are compiled for, filled up and multiplied out.
std::vector<RoundingSpec> specs() {
  std::vector<RoundingSpec> all = rounding_specs();
  const std::int64_t sizes[][3] = {{300, 264, 1}, {70, 512, 8}, {33, 2048, 16}, {9, 528, 2},
                                   {40, 192, 8},  {513, 40, 5}, {6, 768, 3},    {260, 65, 13}};
  std::int64_t rank = 1;
  for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid, Rounder::sigmoid_hard})
    for (OffsetKind offset : {OffsetKind::none, OffsetKind::dense, OffsetKind::product})
      for (const auto& size : sizes)
        for (DecidedOn decided_on : {DecidedOn::scale, DecidedOn::start_scale})
          all.push_back(
              {size[0], size[1], size[2], rank++ % 12 + 1, 4, Symmetry::asymmetric, rounder, offset, decided_on});
  return all;
}

Tensor dequantise(Context& ctx, const Tensor& codes, const RoundingTensors& t, DType dtype) {
  Tensor y(ctx, codes.shape(), dtype);
  ctx.kernels->dequantise_weight(ctx, y, codes, t.grid());
  return y;
}

RoundingTensors backward(Context& ctx, const RoundingTensors& t, const Tensor& dw_hat) {
  RoundingTensors g = t.like(ctx);
  ctx.kernels->quantise_weight_backward(ctx, g.grads(), dw_hat, t.quantiser());
  return g;
}

std::vector<Values> numbers(Context& ctx, const RoundingTensors& g) {
  std::vector<Values> all;
  for (const Tensor* x : {&g.w, &g.scale, &g.zero, &g.dense, &g.a1, &g.a2})
    all.push_back(*x ? to_host<double>(ctx, *x) : Values());
  return all;
}

TEST(CudaRounding, CodesAndTheirValuesAreThoseOfTheCpu) {
  for (const RoundingSpec& spec : specs())
    for (DType dtype : kTypes) {
      const RoundingProblem p = problem_in(spec, dtype, 1);
      const RoundingTensors there = tensors_on(gpu(), p, dtype), here = tensors_on(host(), p, DType::f32);
      const Tensor codes = codes_of(gpu(), there), expected = codes_of(host(), here);
      ASSERT_EQ(bytes_of(gpu(), codes), bytes_of(host(), expected)) << describe(spec, dtype);
      const auto back = to_host<float>(gpu(), dequantise(gpu(), codes, there, dtype));
      auto want = to_host<float>(host(), dequantise(host(), expected, here, DType::f32));
      for (float& x : want) x = float(in_type(dtype, double(x)));
      ASSERT_EQ(back, want) << describe(spec, dtype);
    }
}

// What is written to disk is what the last evaluation used, bit for bit.
TEST(CudaRounding, ForwardCodesAndDequantiseAgreeBitForBit) {
  for (const RoundingSpec& spec : specs())
    for (DType dtype : kTypes) {
      RoundingTensors t = tensors_on(gpu(), random_problem(spec, 2), dtype);
      const Tensor codes = codes_of(gpu(), t);
      if (spec.rounder == Rounder::sigmoid) t.spec.rounder = Rounder::sigmoid_hard;
      ASSERT_EQ(bytes_of(gpu(), dequantise(gpu(), codes, t, dtype)), bytes_of(gpu(), forward(gpu(), t)))
          << describe(spec, dtype);
    }
}

TEST(CudaRounding, ForwardIsTheFormula) {
  for (const RoundingSpec& spec : specs())
    for (DType dtype : kTypes) {
      const RoundingProblem p = problem_in(spec, dtype, 3);
      expect_close(to_host<double>(gpu(), forward(gpu(), tensors_on(gpu(), p, dtype))), p.w_hat(),
                   dtype == DType::bf16 ? 0x1p-8 : kTolerance, describe(spec, dtype));
    }
}

// Ties as the CPU decides them, and quotients that are integers: 2 bits, z = 1, values s * {-1, 0, 1, 2}. Steps that
// the GPU multiplies by and steps that it divides by.
TEST(CudaRounding, TiesAndIntegersFallAsOnTheCpu) {
  for (double s : {0.5, 0x1p-20, 3.0, 0x1p-70, 0x1p70})
    for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid, Rounder::sigmoid_hard}) {
      RoundingProblem p{
          {1, 40, 1, 1, 2, Symmetry::asymmetric, rounder, OffsetKind::none}, {}, {s}, {1}, {}, {}, {}, {}};
      for (int i = -20; i < 20; ++i) p.w.push_back(s * i / 4);
      const auto expected = to_host<float>(host(), forward(host(), tensors_on(host(), p, DType::f32)));
      for (DType dtype : kTypes)
        EXPECT_EQ(to_host<float>(gpu(), forward(gpu(), tensors_on(gpu(), p, dtype))), expected)
            << "s " << s << ", rounder " << int(rounder) << ", " << dtype;
    }
}

// Any quotient, near a tie or not, is rounded as a division rounds it.
TEST(CudaRounding, QuotientsAreRoundedCorrectly) {
  const std::int64_t out = 64, in = 4096;
  Rng rng(4);
  RoundingProblem p{{out, in, in / 64, 1, 8, Symmetry::symmetric, Rounder::straight_through, OffsetKind::none},
                    {},
                    {},
                    {},
                    {},
                    {},
                    {}};
  for (std::int64_t g = 0; g < out * in / 64; ++g) {
    p.scale.push_back(double(float(0.001 + 0.01 * rng.uniform()))), p.zero.push_back(128);
    for (int i = 0; i < 64; ++i)
      p.w.push_back(double(float(p.scale.back() * (double(rng.below(256)) - 128.5)) * (i % 3 ? 1 : 1 + 0x1p-23)));
  }
  EXPECT_EQ(bytes_of(gpu(), codes_of(gpu(), tensors_on(gpu(), p, DType::f32))),
            bytes_of(host(), codes_of(host(), tensors_on(host(), p, DType::f32))));
}

TEST(CudaRounding, GradientsAreThoseOfF64) {
  for (const RoundingSpec& plain : specs())
    for (const RoundingSpec& spec : with_regularisers(plain, {7.3}))
      for (DType dtype : kTypes) {
        const RoundingProblem p = problem_in(spec, dtype, 5);
        Rng rng(6);
        Values dy = random_values(rng, spec.out * spec.in, 1);
        for (double& d : dy) d = in_type(dtype, d);
        const RoundingTensors t = tensors_on(gpu(), p, dtype), t64 = tensors_on(host(), p, DType::f64);
        const auto seed = [&](Context& ctx, DType type) { return from_host<double>(ctx, t.w.shape(), type, dy); };
        const RoundingTensors g = backward(gpu(), t, seed(gpu(), dtype)),
                              again = backward(gpu(), t, seed(gpu(), dtype));
        const auto actual = numbers(gpu(), g),
                   expected = numbers(host(), backward(host(), t64, seed(host(), DType::f64)));
        // dw = m s/s0 dw_hat is dw_hat itself where s0 = s, and rounded to bf16 elsewhere.
        const bool is_dw_rounded = dtype == DType::bf16 && spec.decided_on == DecidedOn::start_scale;
        for (std::size_t part = 0; part < actual.size(); ++part)
          expect_close(actual[part], expected[part], part == 0 && is_dw_rounded ? 0x1p-8 : f32_tolerance(spec),
                       concat(describe(spec, dtype), ", part ", part));
        ASSERT_EQ(actual, numbers(gpu(), again)) << "two runs differ, " << describe(spec, dtype);
      }
}

TEST(CudaRounding, UnwantedGradientsAreSkipped) {
  for (const OffsetKind offset : {OffsetKind::none, OffsetKind::dense, OffsetKind::product})
    for (const std::int64_t rank : {5, 20}) {
      const RoundingSpec spec{.out = 37,
                              .in = 512,
                              .groups = 4,
                              .rank = rank,
                              .bits = 3,
                              .symmetry = Symmetry::asymmetric,
                              .rounder = Rounder::sigmoid,
                              .offset = offset,
                              .lambda = 1e4,
                              .beta = 4};
      const RoundingTensors t = tensors_on(gpu(), random_problem(spec, 7), DType::bf16);
      const Tensor dy = full(gpu(), t.w.shape(), DType::bf16, 0.5);
      const std::vector<Values> all = numbers(gpu(), backward(gpu(), t, dy));
      for (std::size_t part = 0; part < all.size(); ++part) {
        RoundingTensors one = t.like(gpu());
        Tensor* const parts[] = {&one.w, &one.scale, &one.zero, &one.dense, &one.a1, &one.a2};
        for (std::size_t other = 0; other < all.size(); ++other)
          if (other != part) *parts[other] = Tensor();
        gpu().kernels->quantise_weight_backward(gpu(), one.grads(), dy, t.quantiser());
        EXPECT_EQ(numbers(gpu(), one)[part], all[part]) << "part " << part << ", " << describe(spec, DType::bf16);
      }
    }
}

// Rows that lie apart, at addresses that packs of 16 bytes do not reach, give the bits of those that they do.
TEST(CudaRounding, SameBitsForStridedRows) {
  for (const OffsetKind offset : {OffsetKind::none, OffsetKind::dense, OffsetKind::product})
    for (const Rounder rounder : {Rounder::straight_through, Rounder::sigmoid}) {
      const RoundingSpec spec{70, 512, 8, 5, 4, Symmetry::asymmetric, rounder, offset};
      const RoundingProblem p = random_problem(spec, 9);
      RoundingTensors t = tensors_on(gpu(), p, DType::bf16);
      const Tensor expected = forward(gpu(), t), codes = codes_of(gpu(), t);
      Values wide(std::size_t(spec.out * (spec.in + 3)), std::nan(""));
      for (std::int64_t r = 0; r < spec.out; ++r)
        std::copy_n(p.w.begin() + r * spec.in, spec.in, wide.begin() + r * (spec.in + 3) + 1);
      t.w = from_host<double>(gpu(), {spec.out, spec.in + 3}, DType::bf16, wide).slice(1, 1, spec.in + 1);
      EXPECT_EQ(bytes_of(gpu(), forward(gpu(), t)), bytes_of(gpu(), expected)) << describe(spec, DType::bf16);
      EXPECT_EQ(bytes_of(gpu(), codes_of(gpu(), t)), bytes_of(gpu(), codes)) << describe(spec, DType::bf16);
    }
}

TEST(CudaRounding, NanIsNotHidden) {
  for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid})
    for (std::int64_t in : {33, 64})
      for (DType dtype : kTypes) {
        const std::size_t second = std::size_t(in) + 7;
        RoundingProblem p = random_problem({2, in, 1, 1, 4, Symmetry::symmetric, rounder, OffsetKind::dense}, 10);
        p.w[5] = std::nan(""), p.dense[second] = std::nan("");
        const RoundingTensors t = tensors_on(gpu(), p, dtype);
        const Values y = to_host<double>(gpu(), forward(gpu(), t));
        EXPECT_TRUE(std::isnan(y[5]) && std::isfinite(y[6]) && std::isnan(y[second]));
        EXPECT_EQ(int(bytes_of(gpu(), codes_of(gpu(), t))[5]), 0);
        if (rounder != Rounder::sigmoid) continue;
        p.spec.lambda = 1, p.spec.beta = 3;
        const RoundingTensors pulled = tensors_on(gpu(), p, dtype);
        const Values dense = numbers(gpu(), backward(gpu(), pulled, full(gpu(), t.w.shape(), dtype, 0)))[3];
        EXPECT_TRUE(std::isnan(dense[5]) && std::isfinite(dense[6]) && std::isnan(dense[second]));
      }
}

// Infinite weights are clipped, and offsets without bound end at the next integers.
TEST(CudaRounding, ExtremesAreClipped) {
  RoundingProblem p =
      random_problem({2, 64, 1, 1, 4, Symmetry::symmetric, Rounder::straight_through, OffsetKind::none}, 11);
  p.w[0] = std::numeric_limits<double>::infinity(), p.w[1] = -p.w[0], p.w[2] = 3e38, p.w[3] = -3e38;
  EXPECT_EQ(bytes_of(gpu(), codes_of(gpu(), tensors_on(gpu(), p, DType::f32))),
            bytes_of(host(), codes_of(host(), tensors_on(host(), p, DType::f32))));
  p = random_problem({4, 600, 1, 1, 4, Symmetry::symmetric, Rounder::sigmoid, OffsetKind::dense}, 12);
  for (double limit : {1e30, -1e30, 31.0, -31.0}) {
    p.dense.assign(p.w.size(), limit);
    expect_close(to_host<double>(gpu(), forward(gpu(), tensors_on(gpu(), p, DType::f32))),
                 to_host<double>(host(), forward(host(), tensors_on(host(), p, DType::f32))), 1e-6, "limit");
  }
}

}  // namespace
}  // namespace cbq::test
