// GPTQ on the CPU against its definition: explicit inverse, no blocks, long double.
#include <algorithm>
#include <numeric>

#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

std::unique_ptr<Context> open(int threads = 2) {
  return cpu::open(threads, FreshMemory::nan_bytes);
}

// h = x^T x / samples + damping, (n,n)
Values random_hessian(Rng& rng, std::size_t n, double damping) {
  const std::size_t samples = 2 * n;
  const Values x = random_values(rng, std::int64_t(samples * n), 1);
  Values h(n * n, 0.0);
  for (std::size_t t = 0; t < samples; ++t)
    for (std::size_t i = 0; i < n; ++i)  // neighbours are correlated, so that errors can be made up for
      for (std::size_t j = 0; j < n; ++j)
        h[i * n + j] +=
            (x[t * n + i] + x[t * n + (i + 1) % n]) * (x[t * n + j] + x[t * n + (j + 1) % n]) / double(samples);
  for (std::size_t i = 0; i < n; ++i) h[i * n + i] += damping;
  return h;
}

// Gauss-Jordan elimination; no pivots are needed for a positive definite matrix.
std::vector<Real> inverse(const Values& h, std::size_t n) {
  std::vector<Real> a(h.begin(), h.end()), b(n * n, 0);
  for (std::size_t i = 0; i < n; ++i) b[i * n + i] = 1;
  for (std::size_t i = 0; i < n; ++i) {
    const Real pivot = a[i * n + i];
    for (std::size_t j = 0; j < n; ++j) a[i * n + j] /= pivot, b[i * n + j] /= pivot;
    for (std::size_t r = 0; r < n; ++r) {
      const Real f = a[r * n + i];
      if (r == i) continue;
      for (std::size_t j = 0; j < n; ++j) a[r * n + j] -= f * a[i * n + j], b[r * n + j] -= f * b[i * n + j];
    }
  }
  return b;
}

Tensor factor_of(Context& ctx, const Values& h, std::size_t n, DType dtype) {
  const Tensor matrix = from_host<double>(ctx, {std::int64_t(n), std::int64_t(n)}, dtype, h);
  Tensor u(ctx, matrix.shape(), dtype);
  ctx.kernels->cholesky_of_inverse(ctx, u, matrix);
  return u;
}

TEST(Gptq, FactorOfTheInverse) {
  auto ctx = open();
  Rng rng(1);
  for (std::size_t n : {1u, 2u, 31u, 64u, 257u}) {
    const Values h = random_hessian(rng, n, 0.05);
    const Values u = to_host<double>(*ctx, factor_of(*ctx, h, n, DType::f64));
    double worst = 0;
    for (std::size_t i = 0; i < n; ++i)  // (u^T u) h = 1
      for (std::size_t j = 0; j < i; ++j) EXPECT_EQ(u[i * n + j], 0);
    Values v(n * n, 0.0);
    for (std::size_t k = 0; k < n; ++k)
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) v[i * n + j] += u[k * n + i] * u[k * n + j];
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        double sum = i == j ? -1 : 0;
        for (std::size_t k = 0; k < n; ++k) sum += v[i * n + k] * h[k * n + j];
        worst = std::max(worst, std::abs(sum));
        EXPECT_TRUE(u[i * n + i] > 0);
      }
    EXPECT_TRUE(worst <= 1e-10) << worst << " at n = " << n;
  }
}

TEST(Gptq, NotPositiveDefiniteNamesThePivot) {
  auto ctx = open();
  for (double bad : {0.0, -1.0, std::nan("")}) {
    try {
      factor_of(*ctx, {1, 0, 0, 0, bad, 0, 0, 0, 1}, 3, DType::f32);
      ADD_FAILURE() << "accepted " << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::failure);
      EXPECT_NE(std::string(e.what()).find("column 1"), std::string::npos) << e.what();
    }
  }
}

// What algorithm 1 rounds, and the codes it rounds to.
struct Gptq {
  Values compensated;
  std::vector<std::uint8_t> codes;
};

// Algorithm 1 with the inverse itself: after each column, its row and column are eliminated from v.
Gptq naive_gptq(const RoundingProblem& p, const Values& h, const std::vector<std::int32_t>& order) {
  const std::size_t n = std::size_t(p.spec.in);
  Values ordered(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) ordered[i * n + j] = h[std::size_t(order[i]) * n + std::size_t(order[j])];
  Gptq result{Values(p.w.size()), std::vector<std::uint8_t>(p.w.size())};
  for (std::size_t r = 0; r < std::size_t(p.spec.out); ++r) {
    std::vector<Real> v = inverse(ordered, n), left;
    for (std::int32_t c : order) left.push_back(p.w[r * n + std::size_t(c)]);
    for (std::size_t j = 0; j < n; ++j) {
      const std::size_t i = r * n + std::size_t(order[j]);
      const Real s = p.scale[p.group_of(i)], z = p.zero[p.group_of(i)];
      const Real q = clip(std::nearbyint(left[j] / s) + z, 0, p.last()), e = (left[j] - s * (q - z)) / v[j * n + j];
      result.compensated[i] = double(left[j]);
      result.codes[i] = std::uint8_t(q);
      for (std::size_t k = j + 1; k < n; ++k) left[k] -= e * v[j * n + k];
      for (std::size_t a = j + 1; a < n; ++a)
        for (std::size_t b = j + 1; b < n; ++b) v[a * n + b] -= v[a * n + j] * v[j * n + b] / v[j * n + j];
    }
  }
  return result;
}

Gptq gptq(Context& ctx, const RoundingProblem& p, const Values& h, const std::vector<std::int32_t>& order,
          DType dtype) {
  const std::size_t n = order.size();
  Values ordered(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) ordered[i * n + j] = h[std::size_t(order[i]) * n + std::size_t(order[j])];
  const RoundingTensors t(ctx, p, dtype);
  const Tensor compensated(ctx, t.w.shape(), dtype), codes(ctx, t.w.shape(), DType::u8);
  ctx.kernels->gptq_weights(ctx, compensated, t.w, t.grid(), factor_of(ctx, ordered, n, dtype),
                            from_host<std::int32_t>(ctx, {std::int64_t(n)}, DType::i32, order));
  ctx.kernels->weight_codes(ctx, codes, {compensated, t.grid(), Rounder::straight_through, {}});
  return {to_host<double>(ctx, compensated), to_host<std::uint8_t>(ctx, codes)};
}

std::vector<std::int32_t> shuffled(Rng& rng, std::int64_t n) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[std::size_t(rng.below(i))]);
  return order;
}

RoundingProblem problem(std::int64_t out, std::int64_t in, std::int64_t groups, int bits, std::uint64_t seed) {
  return random_problem({out, in, groups, 1, bits, Symmetry::asymmetric, Rounder::straight_through, OffsetKind::none},
                        seed);
}

TEST(Gptq, RoundsWhatTheDefinitionRounds) {
  auto ctx = open();
  Rng rng(2);
  int seed = 0;
  for (int bits : {2, 3, 4, 8})
    for (std::int64_t n : {1, 32, 33, 150}) {
      const RoundingProblem p = problem(3, n, n == 150 ? 3 : 1, bits, std::uint64_t(++seed));
      const Values h = random_hessian(rng, std::size_t(n), 0.5);
      const auto order = shuffled(rng, n);
      const Gptq actual = gptq(*ctx, p, h, order, DType::f64), expected = naive_gptq(p, h, order);
      EXPECT_EQ(actual.codes, expected.codes) << "bits " << bits << ", n " << n;
      for (std::size_t i = 0; i < p.w.size(); ++i)
        ASSERT_NEAR(actual.compensated[i], expected.compensated[i], 1e-9) << "bits " << bits << ", n " << n;
    }
}

Real error_of(const RoundingProblem& p, const Values& h, const std::vector<std::uint8_t>& codes) {
  const std::size_t n = std::size_t(p.spec.in);
  Real sum = 0;
  const auto e = [&](std::size_t i) {
    return Real(p.w[i]) - p.scale[p.group_of(i)] * (Real(codes[i]) - p.zero[p.group_of(i)]);
  };
  for (std::size_t r = 0; r < std::size_t(p.spec.out); ++r)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) sum += e(r * n + i) * h[i * n + j] * e(r * n + j);
  return sum;
}

std::vector<std::uint8_t> nearest(const RoundingProblem& p) {
  std::vector<std::uint8_t> codes(p.w.size());
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = std::uint8_t(p.code(i));
  return codes;
}

TEST(Gptq, ErrsLessThanRoundingAndEqualsItWithoutCorrelation) {
  auto ctx = open();
  Rng rng(3);
  for (DType dtype : {DType::f32, DType::f64})
    for (int bits : {2, 3, 4}) {
      const std::int64_t n = 150;
      // weights inside the grid: beyond its ends nothing can be made up for
      RoundingProblem p = problem(8, n, 3, bits, std::uint64_t(bits));
      for (std::size_t i = 0; i < p.w.size(); ++i) {
        const double s = p.scale[p.group_of(i)], z = p.zero[p.group_of(i)];
        p.w[i] = double(float(s * (double(p.last()) * (0.2 + 0.6 * rng.uniform()) - z)));
      }
      Values one(std::size_t(n * n), 0.0);
      for (std::size_t i = 0; i < std::size_t(n); ++i) one[i * std::size_t(n) + i] = 1;
      const Values h = random_hessian(rng, std::size_t(n), 0.02);
      const auto order = shuffled(rng, n);
      EXPECT_EQ(gptq(*ctx, p, one, order, dtype).codes, nearest(p));
      const Real least = error_of(p, h, gptq(*ctx, p, h, order, dtype).codes), rounding = error_of(p, h, nearest(p));
      EXPECT_TRUE(least < 0.9L * rounding) << least << " and " << rounding << ", bits " << bits;
    }
}

TEST(Gptq, TheSameForEveryNumberOfThreads) {
  Rng rng(4);
  const std::int64_t n = 300;
  const RoundingProblem p = problem(101, n, 1, 4, 5);
  const Values h = random_hessian(rng, std::size_t(n), 0.1);
  const auto order = shuffled(rng, n);
  Values expected;
  for (int threads : {1, 2, 5}) {
    auto ctx = open(threads);
    const Values compensated = gptq(*ctx, p, h, order, DType::f32).compensated;
    if (expected.empty()) expected = compensated;
    EXPECT_EQ(compensated, expected) << threads << " threads";
  }
}

}  // namespace
}  // namespace cbq::test
