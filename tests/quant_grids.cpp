// Grids on the CPU: per-token activations, starting grids of weights, learned clips.
#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

const DType kFloats[] = {DType::f64, DType::f32};
const int kBits[] = {2, 3, 4, 5, 6, 8};
const Symmetry kSymmetries[] = {Symmetry::asymmetric, Symmetry::symmetric};
double tolerance(DType t) {
  return t == DType::f64 ? 1e-12 : 2e-5;
}

std::unique_ptr<Context> open(int threads = 2) {
  return cpu::open(threads, FreshMemory::nan_bytes);
}

struct Element {
  Real q, z, s;
  bool inside;
};

// The grid of a row and where one element of it falls.
Element fake_quant_element(const Values& x, std::size_t row, std::size_t cols, std::size_t c, Real factor, int bits,
                           Symmetry symmetry) {
  Real low = 0, high = 0;
  for (std::size_t i = 0; i < cols; ++i)
    low = std::min<Real>(low, x[row * cols + i]), high = std::max<Real>(high, x[row * cols + i]);
  const Real last = Real((1 << bits) - 1);
  const bool symmetric = symmetry == Symmetry::symmetric;
  const Real s = factor * (symmetric ? std::max(-low, high) * 2 : high - low) / last;
  const Real z = symmetric ? (last + 1) / 2 : std::nearbyint(-low * last / (high - low));
  const Real v = std::nearbyint(x[row * cols + c] / s) + z;
  return {clip(v, 0, last), z, s, v >= 0 && v <= last};
}

TEST(FakeQuant, ForwardAndBackwardAreTheFormulas) {
  auto ctx = open();
  Rng rng(1);
  for (int bits : kBits)
    for (Symmetry symmetry : kSymmetries)
      for (std::size_t cols : {1u, 31u, 32u, 33u, 257u})
        for (DType dtype : kFloats) {
          const std::size_t row_count = 5;
          const std::int64_t n = std::int64_t(row_count * cols);
          const Values x = random_values(rng, n, 2), dy = random_values(rng, n, 1);
          const double factor = double(float(0.6 + 0.3 * rng.uniform()));
          Values y(x.size()), dx(x.size());
          Real dfactor = 0;
          for (std::size_t r = 0; r < row_count; ++r)
            for (std::size_t c = 0; c < cols; ++c) {
              const std::size_t i = r * cols + c;
              const Element e = fake_quant_element(x, r, cols, c, factor, bits, symmetry);
              y[i] = double(e.s * (e.q - e.z)), dx[i] = e.inside ? dy[i] : 0;
              dfactor += dy[i] * e.s / factor * (e.q - e.z - (e.inside ? x[i] / e.s : 0));
            }
          const Shape shape{std::int64_t(row_count), std::int64_t(cols)};
          const Tensor tx = from_host<double>(*ctx, shape, dtype, x), tdy = from_host<double>(*ctx, shape, dtype, dy);
          const Tensor tf = full(*ctx, {1}, dtype, factor);
          Tensor ty(*ctx, shape, dtype), tdx(*ctx, shape, dtype), tdf(*ctx, {1}, dtype);
          ctx->kernels->fake_quant_forward(*ctx, ty, {}, tx, {tf, bits, symmetry});
          ctx->kernels->fake_quant_backward(*ctx, tdx, tdf, tdy, tx, {tf, bits, symmetry});
          const std::string what = concat("bits ", bits, ", symmetry ", int(symmetry), ", cols ", cols, ", ", dtype);
          expect_close(to_host<double>(*ctx, ty), y, tolerance(dtype), what);
          expect_close(to_host<double>(*ctx, tdx), dx, tolerance(dtype), what);
          expect_close(to_host<double>(*ctx, tdf), {double(dfactor)}, 5 * tolerance(dtype), what);
        }
}

// 2 bits, symmetric, range 3: s = 2, z = 2, values {-4, -2, 0, 2}. Asymmetric, range (-1, 2): s = 1, z = 1.
TEST(FakeQuant, WorkedByHand) {
  auto ctx = open();
  const auto run = [&](const Values& x, double factor, Symmetry symmetry) {
    const Tensor t = from_host<double>(*ctx, {1, std::int64_t(x.size())}, DType::f32, x);
    Tensor y(*ctx, t.shape(), t.dtype());
    ctx->kernels->fake_quant_forward(*ctx, y, {}, t, {full(*ctx, {1}, DType::f32, factor), 2, symmetry});
    return to_host<double>(*ctx, y);
  };
  EXPECT_EQ(run({-3, -1.5, 0.9, 1.1, 3}, 1, Symmetry::symmetric), (Values{-4, -2, 0, 2, 2}));
  EXPECT_EQ(run({-1, -0.4, 0.6, 2}, 1, Symmetry::asymmetric), (Values{-1, 0, 1, 2}));
  EXPECT_EQ(run({-1, -0.4, 0.6, 2}, 0.5, Symmetry::asymmetric), (Values{-0.5, -0.5, 0.5, 1}));
  EXPECT_EQ(run({2, 4, 6}, 1, Symmetry::asymmetric), (Values{2, 4, 6}));  // the range always holds 0
}

TEST(FakeQuant, ZeroRowsStayZeroAndNanShows) {
  auto ctx = open();
  for (DType dtype : kFloats)
    for (Symmetry symmetry : kSymmetries) {
      Values x(3 * 33, 0.0);
      x[33 + 7] = std::nan(""), x[33 + 8] = 1, x[66 + 1] = std::numeric_limits<double>::infinity();
      const Tensor t = from_host<double>(*ctx, {3, 33}, dtype, x), factor = full(*ctx, {1}, dtype, 1);
      Tensor y(*ctx, t.shape(), dtype), dx(*ctx, t.shape(), dtype), dfactor(*ctx, {1}, dtype);
      ctx->kernels->fake_quant_forward(*ctx, y, {}, t, {factor, 4, symmetry});
      const Values got = to_host<double>(*ctx, y);
      for (std::size_t i = 0; i < 33; ++i) EXPECT_EQ(got[i], 0);
      for (std::size_t i = 33; i < 99; ++i) EXPECT_TRUE(std::isnan(got[i])) << i;
      ctx->kernels->fake_quant_backward(*ctx, dx.slice(0, 0, 1), dfactor, full(*ctx, {1, 33}, dtype, 1),
                                        t.slice(0, 0, 1), {factor, 4, symmetry});
      EXPECT_EQ(to_host<double>(*ctx, dfactor), Values{0});
    }
}

TEST(FakeQuant, SameBitsForEveryNumberOfThreadsAndStridedRows) {
  Rng rng(2);
  const Values x = random_values(rng, 300 * 257, 1);
  Values expected, expected_sum;
  for (int threads : {1, 2, 5}) {
    auto ctx = open(threads);
    const Tensor t = from_host<double>(*ctx, {300, 257}, DType::f32, x).slice(1, 3, 200),
                 factor = full(*ctx, {1}, DType::f32, 0.9);
    Tensor y(*ctx, t.shape(), DType::f32), dfactor(*ctx, {1}, DType::f32);
    ctx->kernels->fake_quant_forward(*ctx, y, {}, t, {factor, 4, Symmetry::asymmetric});
    ctx->kernels->fake_quant_backward(*ctx, {}, dfactor, y, contiguous(*ctx, t), {factor, 4, Symmetry::asymmetric});
    if (expected.empty()) expected = to_host<double>(*ctx, y), expected_sum = to_host<double>(*ctx, dfactor);
    EXPECT_EQ(to_host<double>(*ctx, y), expected);
    EXPECT_EQ(to_host<double>(*ctx, dfactor), expected_sum);
  }
}

// The fused ops are the two ops, bit by bit, forward and backward.
TEST(FakeQuant, FusedOpsAreTheTwoOps) {
  const auto ctx = open();
  Rng rng(3);
  for (DType dtype : kFloats)
    for (Symmetry symmetry : kSymmetries)
      for (std::int64_t cols : {1, 33, 257}) {
        const auto drawn = [&](Shape shape) {
          return from_host<double>(*ctx, shape, dtype, random_values(rng, shape.count(), 2));
        };
        const Tensor x = drawn({5, cols}), up = drawn({5, cols}), w = drawn({cols}), dy = drawn({5, cols});
        const Tensor bias = drawn({cols});
        const Tensor factor = full(*ctx, {1}, dtype, 0.8);
        const auto run = [&](const auto& op) {
          Tape tape(*ctx);
          const std::array<Var, 3> in = {tape.leaf(x), tape.leaf(up), tape.leaf(factor)};
          const Var y = op(in[0], in[1], ops::ActivationQuantiserVars{in[2], 4, symmetry});
          std::vector<Values> results = {to_host<double>(*ctx, y.value)};
          tape.backward(y, dy);
          for (const Var& v : in)
            if (v.slot->grad) results.push_back(to_host<double>(*ctx, v.slot->grad));
          return results;
        };
        EXPECT_EQ(
            run([&](const Var& a, const Var&, const auto& q) { return ops::rms_norm_quant(*ctx, a, w, 1e-5, q); }),
            run([&](const Var& a, const Var&, const auto& q) {
              return ops::fake_quant(*ctx, ops::rms_norm(*ctx, a, w, 1e-5), q);
            }))
            << cols << " " << dtype;
        EXPECT_EQ(run([&](const Var& a, const Var&, const auto& q) {
                    return ops::layer_norm_quant(*ctx, a, w, bias, 1e-5, q);
                  }),
                  run([&](const Var& a, const Var&, const auto& q) {
                    return ops::fake_quant(*ctx, ops::layer_norm(*ctx, a, w, bias, 1e-5), q);
                  }))
            << cols << " " << dtype;
        for (Activation kind : {Activation::relu, Activation::silu, Activation::gelu, Activation::gelu_tanh})
          EXPECT_EQ(
              run([&](const Var& a, const Var&, const auto& q) { return ops::activation_quant(*ctx, a, kind, q); }),
              run([&](const Var& a, const Var&, const auto& q) {
                return ops::fake_quant(*ctx, ops::activation(*ctx, a, kind), q);
              }))
              << cols << " " << dtype << " " << int(kind);
        EXPECT_EQ(run([&](const Var& a, const Var& b, const auto& q) { return ops::gated_quant(*ctx, a, b, q); }),
                  run([&](const Var& a, const Var& b, const auto& q) {
                    return ops::fake_quant(*ctx, ops::gated(*ctx, a, b), q);
                  }))
            << cols << " " << dtype;
      }
}

struct HostGrid {
  Values scale, zero;
};

HostGrid start_grid(Context& ctx, const Values& w, Shape shape, std::int64_t groups, DType dtype, int bits,
                    Symmetry symmetry, double min_ratio, int steps) {
  Tensor s(ctx, {shape[0], groups}, dtype), z(ctx, {shape[0], groups}, dtype);
  ctx.kernels->start_grid(ctx, s, z, from_host<double>(ctx, shape, dtype, w), bits, symmetry, min_ratio, steps);
  return {to_host<double>(ctx, s), to_host<double>(ctx, z)};
}

Real squared_error(const double* w, std::size_t count, Real s, Real z, Real last) {
  Real sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const Real e = w[i] - s * (clip(std::nearbyint(w[i] / s) + z, 0, last) - z);
    sum += e * e;
  }
  return sum;
}

TEST(StartGrid, LeastErrorOfAllRatios) {
  auto ctx = open();
  Rng rng(3);
  for (int bits : kBits)
    for (Symmetry symmetry : kSymmetries)
      for (std::int64_t size : {1, 31, 32, 33, 257})
        for (int steps : {1, 40}) {
          const std::int64_t groups = 2;
          const Values w = random_values(rng, 3 * groups * size, 0.3);
          const Real last = Real((1 << bits) - 1);
          const HostGrid f64 = start_grid(*ctx, w, {3, groups * size}, groups, DType::f64, bits, symmetry, 0.3, steps);
          const HostGrid f32 = start_grid(*ctx, w, {3, groups * size}, groups, DType::f32, bits, symmetry, 0.3, steps);
          for (std::size_t g = 0; g < f64.scale.size(); ++g) {
            const double* group = &w[g * std::size_t(size)];
            Real low = 0, high = 0, least = -1, best_s = 0, best_z = 0;
            for (std::int64_t i = 0; i < size; ++i)
              low = std::min<Real>(low, group[i]), high = std::max<Real>(high, group[i]);
            for (int i = 0; i < steps; ++i) {
              const Real ratio = steps == 1 ? 1 : 1 - 0.7L * Real(i) / Real(steps - 1);
              const Real s = ratio * (symmetry == Symmetry::symmetric ? 2 * std::max(-low, high) : high - low) / last;
              const Real z = symmetry == Symmetry::symmetric ? (last + 1) / 2 : std::nearbyint(-low * ratio / s);
              const Real error = squared_error(group, std::size_t(size), s, z, last);
              if (least < 0 || error < least) least = error, best_s = s, best_z = z;
            }
            // Two ratios may err alike but for the last digits: the error decides, not the ratio.
            for (const HostGrid& got : {f64, f32}) {
              const Real error = squared_error(group, std::size_t(size), got.scale[g], got.zero[g], last);
              EXPECT_TRUE(error <= least * (1 + 1e-5L) + 1e-9L)
                  << error << " and " << least << ", bits " << bits << ", size " << size;
            }
            if (steps == 1) {
              EXPECT_NEAR(f64.scale[g], double(best_s), 1e-14);
              EXPECT_EQ(f64.zero[g], double(best_z));
            }
          }
        }
}

TEST(StartGrid, ExtremeGroups) {
  auto ctx = open();
  for (DType dtype : kFloats)
    for (Symmetry symmetry : kSymmetries)
      for (int steps : {1, 40})
        for (double value : {0.0, 0.7, -0.7, 1e-44, -3e-39, 3e38}) {
          const Values w(40, value);
          const HostGrid grid = start_grid(*ctx, w, {1, 40}, 1, dtype, 4, symmetry, 0.3, steps);
          const double s = grid.scale[0], z = grid.zero[0];
          EXPECT_TRUE(s >= double(std::numeric_limits<float>::min()) || dtype == DType::f64) << s;
          EXPECT_TRUE(s > 0 && std::isfinite(s)) << s;
          EXPECT_TRUE(z >= 0 && z <= 15 && z == std::nearbyint(z)) << z;
          const double w_hat = s * (double(clip(std::nearbyint(Real(w[0]) / s) + z, 0, 15)) - z);
          EXPECT_TRUE(value != 0 || w_hat == 0) << w_hat;
          if (std::abs(value) < 1e-30 || symmetry == Symmetry::symmetric) continue;
          EXPECT_NEAR(w_hat / value, 1, 1e-5);
        }
  const HostGrid nan = start_grid(*ctx, {1, std::nan(""), 2}, {1, 3}, 1, DType::f32, 4, Symmetry::symmetric, 0.3, 40);
  EXPECT_TRUE(std::isnan(nan.scale[0]));
}

// Weights on a grid of their own: every ratio that loses nothing ties with 1 at best, and 1 wins.
TEST(StartGrid, TheLargestOfEqualRatiosWins) {
  auto ctx = open();
  const Values w = {0, 1, 2, 3};
  const HostGrid grid = start_grid(*ctx, w, {1, 4}, 1, DType::f64, 2, Symmetry::asymmetric, 0.3, 40);
  EXPECT_EQ(grid.scale[0], 1);
  EXPECT_EQ(grid.zero[0], 0);
}

TEST(ClipGrid, FormulaAndGradient) {
  auto ctx = open();
  Rng rng(4);
  const std::size_t n = 33;
  for (int bits : kBits)
    for (Symmetry symmetry : kSymmetries) {
      Values parts[4];  // s0, z0, low, high
      const Real last = Real((1 << bits) - 1);
      for (std::size_t i = 0; i < n; ++i) {
        parts[0].push_back(0.1 + rng.uniform());
        parts[1].push_back(symmetry == Symmetry::symmetric ? double(last + 1) / 2 : double(rng.below(1u << bits)));
        parts[2].push_back(0.5 + 0.6 * rng.uniform()), parts[3].push_back(0.5 + 0.6 * rng.uniform());
      }
      const Values ds = random_values(rng, n, 1), dz = random_values(rng, n, 1);
      const auto tensor = [&](const Values& v) { return from_host<double>(*ctx, {std::int64_t(n), 1}, DType::f64, v); };
      const Tensor s0 = tensor(parts[0]), z0 = tensor(parts[1]), low = tensor(parts[2]), high = tensor(parts[3]);
      Tensor s = tensor(ds), z = tensor(ds), dlow = tensor(ds), dhigh = tensor(ds);
      ctx->kernels->clip_grid_forward(*ctx, s, z, s0, z0, low, high, bits, symmetry);
      ctx->kernels->clip_grid_backward(*ctx, dlow, dhigh, tensor(ds), tensor(dz), s0, z0, low, high, bits, symmetry);
      const Values got_s = to_host<double>(*ctx, s), got_z = to_host<double>(*ctx, z);
      const Values got_low = to_host<double>(*ctx, dlow), got_high = to_host<double>(*ctx, dhigh);
      for (std::size_t i = 0; i < n; ++i) {
        // step and un-rounded zero point of the clips
        const auto grid = [&](Real lo, Real hi) {
          const Real a = parts[0][i], zmin = -Real(parts[1][i]), zmax = last - Real(parts[1][i]);
          if (symmetry == Symmetry::symmetric) return std::pair<Real, Real>(hi * a, -zmin);
          const Real step = (hi * zmax - lo * zmin) * a / last;
          return std::pair<Real, Real>(step, -lo * zmin * a / step);
        };
        const Real lo = parts[2][i], hi = parts[3][i], t = 1e-6L;
        EXPECT_NEAR(got_s[i], double(grid(lo, hi).first), 1e-14);
        EXPECT_EQ(got_z[i], double(std::nearbyint(grid(lo, hi).second)));
        const auto value = [&](Real l, Real h) { return ds[i] * grid(l, h).first + dz[i] * grid(l, h).second; };
        EXPECT_NEAR(got_low[i], double((value(lo + t, hi) - value(lo - t, hi)) / (2 * t)), 1e-7);
        EXPECT_NEAR(got_high[i], double((value(lo, hi + t) - value(lo, hi - t)) / (2 * t)), 1e-7);
      }
      const Tensor ones = full(*ctx, {std::int64_t(n), 1}, DType::f64, 1);
      ctx->kernels->clip_grid_forward(*ctx, s, z, s0, z0, ones, ones, bits, symmetry);
      expect_close(to_host<double>(*ctx, s), parts[0], 1e-15, "scale of idle clips");
      EXPECT_EQ(to_host<double>(*ctx, z), parts[1]);
      Tensor no_dz = tensor(ds), zero_dz = tensor(ds);
      ctx->kernels->clip_grid_backward(*ctx, no_dz, {}, tensor(ds), {}, s0, z0, low, high, bits, symmetry);
      ctx->kernels->clip_grid_backward(*ctx, zero_dz, {}, tensor(ds), tensor(Values(n, 0.0)), s0, z0, low, high, bits,
                                       symmetry);
      EXPECT_EQ(to_host<double>(*ctx, no_dz), to_host<double>(*ctx, zero_dz));
    }
}

}  // namespace
}  // namespace cbq::test
