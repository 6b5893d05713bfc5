// The rungs of bench/ladder/ against the definition: the CPU backend in f64 on inputs rounded to bf16. Two runs give
// the same bits.
#include "bench/ladder/ladder.h"

#include <cmath>

#include "tests/gpu.h"
#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

constexpr double kRoundedOutput = 0x1p-8;  // half a unit in the last place of bf16, relative to the largest entry
constexpr double kSums = 2e-5;             // of sums in f32

// Numbers that bf16 holds, on the GPU in bf16 and on the CPU in f64.
struct Twin {
  Tensor gpu, host;
  Twin(const Shape& shape, std::uint64_t seed)
      : gpu(from_host<float>(test::gpu(), shape, DType::bf16, randn(shape.count(), seed))),
        host(on(test::host(), gpu, test::gpu(), DType::f64)) {}
};

Values numbers(Context& ctx, const Tensor& x) {
  if (x.dtype() == DType::f64) return to_host<double>(ctx, x);
  const std::vector<float> values = to_host<float>(ctx, x);
  return {values.begin(), values.end()};
}

TEST(Ladder, RmsNorm) {
  for (const Shape& shape : {Shape{1, 8}, Shape{33, 264}, Shape{5, 8192}}) {
    const Twin x(shape, 1), w({shape[1]}, 2);
    const auto run = [&](Context& ctx, auto kernel, DType dtype, const Tensor& of_x, const Tensor& of_w) {
      const Tensor y(ctx, shape, dtype), rstd(ctx, {shape[0]}, dtype == DType::f64 ? DType::f64 : DType::f32);
      kernel(ctx, y, rstd, of_x, of_w, 1e-5);
      return std::pair{numbers(ctx, y), numbers(ctx, rstd)};
    };
    const auto expected = run(host(), host().kernels->rms_norm_forward, DType::f64, x.host, w.host);
    for (const auto& rung : ladder::kRmsNorm) {
      const auto actual = run(gpu(), rung.run, DType::bf16, x.gpu, w.gpu);
      expect_close(actual.first, expected.first, kRoundedOutput, concat("y, ", rung.name, ", ", shape));
      expect_close(actual.second, expected.second, kSums, concat("rstd, ", rung.name, ", ", shape));
      EXPECT_EQ(actual, run(gpu(), rung.run, DType::bf16, x.gpu, w.gpu)) << rung.name << ": two runs differ";
    }
  }
}

TEST(Ladder, Weight) {
  for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{1, 8}, {65, 264}, {300, 2048}}) {
    const RoundingSpec spec{out, in, 1, 5, 4, Symmetry::asymmetric, Rounder::straight_through, OffsetKind::product};
    RoundingProblem p = random_problem(spec, 3);
    Rng rng(4);
    for (std::size_t i = 0; i < p.w.size(); ++i) do
        p.w[i] = double(bf16_to_f32(f32_to_bf16(float(p.scale[p.group_of(i)] * (24 * rng.uniform() - 12)))));
      while (!p.safe(i));
    RoundingTensors t(gpu(), p, DType::f32);
    t.w = from_host<double>(gpu(), t.w.shape(), DType::bf16, p.w);
    const auto run = [&](auto kernel) {
      const Tensor w_hat(gpu(), t.w.shape(), DType::bf16);
      kernel(gpu(), w_hat, t.quantiser());
      return numbers(gpu(), w_hat);
    };
    for (const auto& rung : ladder::kWeight) {
      const Values actual = run(rung.run);
      expect_close(actual, p.w_hat(), kRoundedOutput, concat(rung.name, ", ", out, "x", in));
      EXPECT_EQ(actual, run(rung.run)) << rung.name << ": two runs differ";
    }
  }
}

TEST(Ladder, Attention) {
  for (const auto& [batch, tokens, heads] :
       {std::array<std::int64_t, 3>{1, 64, 1}, std::array<std::int64_t, 3>{2, 192, 3}}) {
    const Shape shape{batch, tokens, heads, 128};
    const Twin q(shape, 1), k(shape, 2), v(shape, 3);
    const auto run = [&](Context& ctx, auto kernel, DType dtype, Tensor Twin::*of) {
      const DType statistics = dtype == DType::f64 ? DType::f64 : DType::f32;
      const Tensor o(ctx, shape, dtype), lse(ctx, {shape[0], shape[2], shape[1]}, statistics);
      kernel(ctx, o, lse, q.*of, k.*of, v.*of, 1 / std::sqrt(128.0));
      return std::pair{numbers(ctx, o), numbers(ctx, lse)};
    };
    const auto expected = run(host(), host().kernels->attention_forward, DType::f64, &Twin::host);
    for (const auto& rung : ladder::kAttention) {
      const auto actual = run(gpu(), rung.run, DType::bf16, &Twin::gpu);
      expect_close(actual.first, expected.first, 2 * kRoundedOutput, concat("o, ", rung.name, ", ", shape));
      expect_close(actual.second, expected.second, kSums, concat("lse, ", rung.name, ", ", shape));
      EXPECT_EQ(actual, run(gpu(), rung.run, DType::bf16, &Twin::gpu)) << rung.name << ": two runs differ";
    }
  }
}

}  // namespace
}  // namespace cbq::test
