// Losses and optimiser steps on the CPU against their formulas in long double.
#include <algorithm>

#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

const DType kFloats[] = {DType::f64, DType::f32};
double tolerance(DType t) {
  return t == DType::f64 ? 1e-12 : 5e-6;
}

std::unique_ptr<Context> open(int threads = 2) {
  return cpu::open(threads, FreshMemory::nan_bytes);
}

Tensor tensor(Context& ctx, Shape shape, DType dtype, const Values& v) {
  return from_host<double>(ctx, shape, dtype, v);
}

std::vector<Real> log_softmax(const double* x, std::size_t count) {
  const Real largest = *std::max_element(x, x + count);
  Real sum = 0;
  for (std::size_t c = 0; c < count; ++c) sum += std::exp(x[c] - largest);
  std::vector<Real> y(count);
  for (std::size_t c = 0; c < count; ++c) y[c] = x[c] - largest - std::log(sum);
  return y;
}

const std::size_t kRows = 5;
const std::size_t kCols[] = {1, 2, 31, 32, 33, 257};

TEST(Mse, ValueAndGradient) {
  auto ctx = open();
  Rng rng(1);
  for (DType dtype : kFloats)
    for (std::size_t cols : kCols) {
      const Shape shape{std::int64_t(kRows), std::int64_t(cols)};
      const Values a = random_values(rng, shape.count(), 1), b = random_values(rng, shape.count(), 1);
      Real sum = 0;
      Values da(a.size()), db(a.size());
      for (std::size_t i = 0; i < a.size(); ++i) {
        sum += (Real(a[i]) - b[i]) * (Real(a[i]) - b[i]);
        da[i] = 3 * 2 * (a[i] - b[i]) / double(a.size()), db[i] = -da[i];
      }
      const Tensor ta = tensor(*ctx, shape, dtype, a), tb = tensor(*ctx, shape, dtype, b);
      Tensor loss(*ctx, {1}, dtype), tda(*ctx, shape, dtype), tdb(*ctx, shape, dtype);
      ctx->kernels->mse_forward(*ctx, loss, ta, tb);
      ctx->kernels->mse_backward(*ctx, tda, tdb, full(*ctx, {1}, dtype, 3), ta, tb);
      expect_close(to_host<double>(*ctx, loss), {double(sum / Real(a.size()))}, tolerance(dtype), "mse");
      expect_close(to_host<double>(*ctx, tda), da, tolerance(dtype), "mse da");
      expect_close(to_host<double>(*ctx, tdb), db, tolerance(dtype), "mse db");
    }
}

TEST(Kl, ValueAndGradient) {
  auto ctx = open();
  Rng rng(2);
  for (DType dtype : kFloats)
    for (std::size_t cols : kCols)
      for (double apart : {2.0, 1e-3}) {
        const Shape shape{std::int64_t(kRows), std::int64_t(cols)};
        Values a = random_values(rng, shape.count(), 3), b = random_values(rng, shape.count(), apart);
        for (std::size_t i = 0; i < a.size(); ++i) b[i] = double(float(a[i] + b[i] + 50)), a[i] = double(float(a[i]));
        const Values dloss = random_values(rng, kRows, 1);
        Values loss(kRows), da(a.size()), db(a.size());
        for (std::size_t r = 0; r < kRows; ++r) {
          const auto p = log_softmax(&a[r * cols], cols), q = log_softmax(&b[r * cols], cols);
          Real sum = 0;
          for (std::size_t c = 0; c < cols; ++c) sum += std::exp(p[c]) * (p[c] - q[c]);
          for (std::size_t c = 0; c < cols; ++c) {
            da[r * cols + c] = double(dloss[r] * std::exp(p[c]) * (p[c] - q[c] - sum));
            db[r * cols + c] = double(dloss[r] * (std::exp(q[c]) - std::exp(p[c])));
          }
          loss[r] = double(sum);
        }
        const Tensor ta = tensor(*ctx, shape, dtype, a), tb = tensor(*ctx, shape, dtype, b);
        Tensor tloss(*ctx, {std::int64_t(kRows)}, dtype), tda(*ctx, shape, dtype), tdb(*ctx, shape, dtype),
            alone(*ctx, shape, dtype);
        const Tensor seed = tensor(*ctx, {std::int64_t(kRows)}, dtype, dloss);
        ctx->kernels->kl_forward(*ctx, tloss, ta, tb);
        ctx->kernels->kl_backward(*ctx, tda, tdb, seed, ta, tb);
        ctx->kernels->kl_backward(*ctx, {}, alone, seed, ta, tb);
        const std::string what = concat("kl, cols ", cols, ", apart ", apart, ", ", dtype);
        expect_close(to_host<double>(*ctx, tloss), loss, tolerance(dtype), what);
        expect_close(to_host<double>(*ctx, tda), da, tolerance(dtype), what + ", da");
        expect_close(to_host<double>(*ctx, tdb), db, tolerance(dtype), what + ", db");
        EXPECT_EQ(to_host<double>(*ctx, alone), to_host<double>(*ctx, tdb));
      }
}

// Near-equal rows: the loss is of the second order, and must not drown in the rounding of the first.
TEST(Kl, SmallLossesKeepTheirDigits) {
  auto ctx = open();
  Rng rng(3);
  const std::size_t cols = 384;
  Values a = random_values(rng, std::int64_t(cols), 3), b = a;
  for (std::size_t c = 0; c < cols; ++c) b[c] = double(float(a[c] + 1e-2 * rng.normal()));
  const auto p = log_softmax(a.data(), cols), q = log_softmax(b.data(), cols);
  Real expected = 0;
  for (std::size_t c = 0; c < cols; ++c) expected += std::exp(p[c]) * (p[c] - q[c]);
  Tensor loss(*ctx, {1}, DType::f32);
  const Shape shape{1, std::int64_t(cols)};
  ctx->kernels->kl_forward(*ctx, loss, tensor(*ctx, shape, DType::f32, a), tensor(*ctx, shape, DType::f32, b));
  EXPECT_NEAR(to_host<double>(*ctx, loss)[0] / double(expected), 1, 1e-2);
}

TEST(CrossEntropy, ValueGradientAndIgnoredRows) {
  auto ctx = open();
  Rng rng(4);
  for (DType dtype : kFloats)
    for (std::size_t cols : kCols) {
      const Shape shape{std::int64_t(kRows), std::int64_t(cols)}, of_rows{std::int64_t(kRows)};
      Values x = random_values(rng, shape.count(), 30);
      const Values dloss = random_values(rng, kRows, 1);
      std::vector<std::int32_t> target;
      for (std::size_t r = 0; r < kRows; ++r) target.push_back(r == 1 ? -100 : std::int32_t(rng.below(cols)));
      Values loss(kRows, 0.0), dx(x.size(), 0.0);
      for (std::size_t r = 0; r < kRows; ++r) {
        if (target[r] < 0) continue;
        const auto p = log_softmax(&x[r * cols], cols);
        loss[r] = double(-p[std::size_t(target[r])]);
        for (std::size_t c = 0; c < cols; ++c)
          dx[r * cols + c] = double(dloss[r] * (std::exp(p[c]) - (c == std::size_t(target[r]) ? 1 : 0)));
      }
      const Tensor tx = tensor(*ctx, shape, dtype, x), tt = from_host<std::int32_t>(*ctx, of_rows, DType::i32, target);
      Tensor tloss(*ctx, of_rows, dtype), tdx(*ctx, shape, dtype);
      ctx->kernels->cross_entropy_forward(*ctx, tloss, tx, tt);
      ctx->kernels->cross_entropy_backward(*ctx, tdx, tensor(*ctx, of_rows, dtype, dloss), tx, tt);
      expect_close(to_host<double>(*ctx, tloss), loss, tolerance(dtype),
                   concat("cross entropy, cols ", cols, ", ", dtype));
      expect_close(to_host<double>(*ctx, tdx), dx, tolerance(dtype),
                   concat("cross entropy dx, cols ", cols, ", ", dtype));
      EXPECT_EQ(to_host<double>(*ctx, tloss)[1], 0);
    }
}

TEST(CrossEntropy, BadTargetsAndNan) {
  auto ctx = open();
  const Tensor x = tensor(*ctx, {2, 3}, DType::f32, {1, std::nan(""), 2, 1e30, -1e30, 0});
  Tensor loss(*ctx, {2}, DType::f32);
  const auto run = [&](std::int32_t target) {
    const std::int32_t targets[] = {0, target};
    ctx->kernels->cross_entropy_forward(*ctx, loss, x, from_host<std::int32_t>(*ctx, {2}, DType::i32, targets));
    return to_host<double>(*ctx, loss);
  };
  EXPECT_THROW(run(3), Error);
  EXPECT_TRUE(std::isnan(run(0)[0]));
  EXPECT_EQ(run(0)[1], 0);
}

TEST(Losses, SameBitsForEveryNumberOfThreads) {
  Rng rng(5);
  const Values a = random_values(rng, 67 * 999, 1), b = random_values(rng, 67 * 999, 1);
  const std::vector<std::int32_t> target(67, 5);
  std::vector<Values> expected;
  for (int threads : {1, 2, 5}) {
    auto ctx = open(threads);
    const Tensor ta = tensor(*ctx, {67, 999}, DType::f32, a), tb = tensor(*ctx, {67, 999}, DType::f32, b);
    const Tensor tt = from_host<std::int32_t>(*ctx, {67}, DType::i32, target);
    Tensor mse(*ctx, {1}, DType::f32), kl(*ctx, {67}, DType::f32), ce(*ctx, {67}, DType::f32),
        da(*ctx, {67, 999}, DType::f32);
    ctx->kernels->mse_forward(*ctx, mse, ta, tb);
    ctx->kernels->kl_forward(*ctx, kl, ta, tb);
    ctx->kernels->cross_entropy_forward(*ctx, ce, ta, tt);
    ctx->kernels->kl_backward(*ctx, da, {}, kl, ta, tb);
    std::vector<Values> got;
    for (const Tensor* x : {&mse, &kl, &ce, &da}) got.push_back(to_host<double>(*ctx, *x));
    if (expected.empty()) expected = got;
    EXPECT_EQ(got, expected);
  }
}

TEST(Optimizer, AdamWIsTheFormula) {
  auto ctx = open();
  Rng rng(6);
  for (DType dtype : kFloats)
    for (std::int64_t n : {1, 33, 5000}) {
      const AdamStep step{1e-2, 0.9, 0.95, 1e-8, 0.1, 1};
      Values x = random_values(rng, n, 1), m(x.size(), 0.0), v(x.size(), 0.0);
      const Tensor tx = tensor(*ctx, {n}, dtype, x), tm = full(*ctx, {n}, dtype, 0), tv = full(*ctx, {n}, dtype, 0);
      for (std::int64_t t = 1; t <= 3; ++t) {
        Values g = random_values(rng, n, 1);
        g[0] = 0;
        AdamStep now = step;
        now.step = t;
        const Tensor tg = tensor(*ctx, {n}, dtype, g);
        const std::vector<AdamTensor> update = {{tx, tm, tv, tg, now}};
        ctx->kernels->adamw_step(*ctx, update);
        for (std::size_t i = 0; i < x.size(); ++i) {
          m[i] = 0.9 * m[i] + (1 - 0.9) * g[i], v[i] = 0.95 * v[i] + (1 - 0.95) * g[i] * g[i];
          const double unbiased_m = m[i] / (1 - std::pow(0.9, double(t))),
                       unbiased_v = v[i] / (1 - std::pow(0.95, double(t)));
          x[i] -= 1e-2 * (unbiased_m / (std::sqrt(unbiased_v) + 1e-8) + 0.1 * x[i]);
        }
      }
      expect_close(to_host<double>(*ctx, tx), x, tolerance(dtype), "adamw value");
      expect_close(to_host<double>(*ctx, tm), m, tolerance(dtype), "adamw m");
      expect_close(to_host<double>(*ctx, tv), v, tolerance(dtype), "adamw v");
    }
}

TEST(Optimizer, SignSgd) {
  auto ctx = open();
  const Tensor x = tensor(*ctx, {5}, DType::f64, {1, 1, 1, 1, 1}),
               g = tensor(*ctx, {5}, DType::f64, {2, -1e-300, 0, -0.0, std::nan("")});
  const std::vector<SignTensor> update = {{x, g, 0.25}};
  ctx->kernels->sign_sgd_step(*ctx, update);
  const Values got = to_host<double>(*ctx, x);
  EXPECT_EQ((Values(got.begin(), got.end() - 1)), (Values{0.75, 1.25, 1, 1}));
  EXPECT_TRUE(std::isnan(got[4]));
}

// Several tensors in one call, one of them empty, each with its own rate and bounds.
TEST(Optimizer, TensorsKeepTheirBounds) {
  auto ctx = open();
  const Tensor x = tensor(*ctx, {3}, DType::f64, {0, 0.5, std::nan("")}), y = tensor(*ctx, {2}, DType::f64, {0, 0}),
               g = tensor(*ctx, {3}, DType::f64, {1, -1, 1}), none(*ctx, {0}, DType::f64);
  const std::vector<SignTensor> signs = {{x, g, 0.25, -0.125, 0.5}, {none, none, 1}, {y, g.slice(0, 0, 2), 2}};
  ctx->kernels->sign_sgd_step(*ctx, signs);
  const Values signed_x = to_host<double>(*ctx, x);
  EXPECT_EQ((Values(signed_x.begin(), signed_x.end() - 1)), (Values{-0.125, 0.5}));
  EXPECT_TRUE(std::isnan(signed_x[2]));
  EXPECT_EQ(to_host<double>(*ctx, y), (Values{-2, 2}));

  const Tensor value = tensor(*ctx, {2}, DType::f64, {1, -1}), m = full(*ctx, {2}, DType::f64, 0),
               v = full(*ctx, {2}, DType::f64, 0), grad = tensor(*ctx, {2}, DType::f64, {-1, 1});
  const std::vector<AdamTensor> adamw = {{value, m, v, grad, {0.5, 0.9, 0.95, 1e-15, 0, 1}, -1.25, 1.5 - 1e-9}};
  ctx->kernels->adamw_step(*ctx, adamw);  // the first step of Adam has the size of the rate
  EXPECT_EQ(to_host<double>(*ctx, value), (Values{1.5 - 1e-9, -1.25}));
}

}  // namespace
}  // namespace cbq::test
