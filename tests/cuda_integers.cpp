// Products of integers on the GPU, which are exact where their sums are.
#include <array>
#include <cmath>

#include "tests/cuda_types.h"
#include "tests/integer_checks.h"

namespace cbq::test {
namespace {

TEST(CudaIntegers, TimesTheirStepsAreTheValues) {
  for (DType dtype : kTypes) check_integers(gpu(), dtype);
}

struct Operand {
  Shape shape;
  std::vector<float> integers, step;
  IntegerTensors on(Context& ctx, DType dtype) const {
    return {from_host<float>(ctx, shape, DType::f8, integers),
            from_host<float>(ctx, {shape[0]}, statistics_dtype(dtype), step)};
  }
};

// Integers from -15 to 15, or all 15; steps are powers of two.
enum class Draw { random, largest };
Operand draw(Shape shape, Draw how, std::uint64_t seed) {
  Rng rng(seed);
  Operand x{shape, std::vector<float>(std::size_t(shape.count()), 15.0f), std::vector<float>(std::size_t(shape[0]))};
  if (how == Draw::random)
    for (float& v : x.integers) v = float(rng.below(31)) - 15;
  for (float& s : x.step) s = std::ldexp(1.0f, int(rng.below(5)) - 6);
  return x;
}

// Sizes with and without a product in f8; the largest sums lie far above what its tensor cores hold.
TEST(CudaIntegers, ProductsAreExact) {
  for (const auto& [M, N, K] : {std::array<std::int64_t, 3>{64, 128, 4096},
                                {2048, 384, 1024},
                                {128, 256, 22016},
                                {16, 16, 16},
                                {33, 31, 65},
                                {48, 65, 64},
                                {40, 48, 64}})
    for (Draw how : {Draw::random, Draw::largest})
      for (DType dtype : kTypes)
        for (bool has_bias : {false, true}) {
          const Operand a = draw({M, K}, how, 1), b = draw({N, K}, how, 2);
          const auto addend = randn(M * N, 3, 30), bias = randn(N, 4, 30);
          const auto run = [&](Context& ctx, DType type) {
            const IntegerTensors left = a.on(ctx, type), right = b.on(ctx, type);
            const Tensor plus = from_host<float>(ctx, {M, N}, type, addend);
            const Tensor shift = has_bias ? from_host<float>(ctx, {N}, type, bias) : Tensor();
            const Tensor y(ctx, {M, N}, type);
            ctx.kernels->matmul_integers(ctx, y, left.views(), right.views(), shift, {});
            const Tensor sum = copy(ctx, plus);  // which is the output too
            ctx.kernels->matmul_integers(ctx, sum, left.views(), right.views(), shift, sum);
            return std::array{to_host<double>(ctx, y), to_host<double>(ctx, sum)};
          };
          const auto actual = run(gpu(), dtype), again = run(gpu(), dtype), expected = run(host(), DType::f64);
          const std::string what = concat(M, "x", N, "x", K, " ", dtype, has_bias ? " with bias" : "");
          EXPECT_EQ(actual, again) << what;
          for (std::size_t i = 0; i < expected[0].size(); ++i) {
            const double exact = expected[0][i], sum = expected[1][i];
            if (!has_bias && how == Draw::random) {
              ASSERT_EQ(actual[0][i], in_type(dtype, exact)) << what << ", " << i;
            }
            // With something to add cuBLASLt may round twice.
            const double slack = dtype == DType::bf16 ? 0x1p-7 : 0x1p-18;
            ASSERT_NEAR(actual[0][i], exact, slack * (64 + std::abs(exact))) << what << ", " << i;
            ASSERT_NEAR(actual[1][i], sum, slack * (64 + std::abs(sum) + std::abs(exact))) << what << ", " << i;
          }
        }
}

// Where the context prefers integers, the product is one of integers: it is rounded once. A product of values would
// round s q of both sides first, and miss most sums that nearly cancel.
TEST(CudaIntegers, PreferredProductsAreRoundedOnce) {
  const std::int64_t M = 64, N = 128, K = 4096;
  if (!gpu().prefers_integers(DType::bf16, {M, K}, {N, K})) GTEST_SKIP() << "this GPU multiplies values";
  Operand a = draw({M, K}, Draw::random, 5), b = draw({N, K}, Draw::random, 6);
  Rng rng(7);
  for (Operand* x : {&a, &b})
    for (float& s : x->step) s = 0.01f + float(rng.uniform());
  const IntegerTensors left = a.on(gpu(), DType::bf16), right = b.on(gpu(), DType::bf16);
  const Tensor y(gpu(), {M, N}, DType::bf16);
  gpu().kernels->matmul_integers(gpu(), y, left.views(), right.views(), {}, {});
  const std::vector<double> actual = to_host<double>(gpu(), y);
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const std::size_t m = i / std::size_t(N), n = i % std::size_t(N);
    double sum = 0;
    for (std::size_t k = 0; k < std::size_t(K); ++k)
      sum += double(a.integers[m * std::size_t(K) + k]) * double(b.integers[n * std::size_t(K) + k]);
    const double exact = double(a.step[m]) * double(b.step[n]) * sum;
    const double half_ulp = std::ldexp(1, std::ilogb(exact) - 8);
    ASSERT_NEAR(actual[i], exact, (1 + 0x1p-10) * half_ulp) << i;
  }
}

}  // namespace
}  // namespace cbq::test
