// Starting grids on the GPU by the rounding error they reach, and the quantiser of activations, bit for bit.
#include <algorithm>
#include <cmath>

#include "tests/cuda_types.h"
#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

struct HostGrid {
  Values scale, zero;
};

HostGrid start_grid(Context& ctx, const Values& w, Shape shape, std::int64_t groups, DType dtype, int bits,
                    Symmetry symmetry, int steps) {
  const Tensor t = from_host<double>(ctx, shape, dtype, w);
  const Tensor scale(ctx, {shape[0], groups}, DType::f32), zero(ctx, {shape[0], groups}, DType::f32);
  ctx.kernels->start_grid(ctx, scale, zero, t, bits, symmetry, 0.3, steps);
  return {to_host<double>(ctx, scale), to_host<double>(ctx, zero)};
}

double squared_error(const double* w, std::size_t count, double s, double z, double last) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double error = w[i] - s * (std::clamp(std::nearbyint(w[i] / s) + z, 0.0, last) - z);
    sum += error * error;
  }
  return sum;
}

TEST(CudaStartGrid, ReachesTheErrorOfTheCpu) {
  for (DType dtype : kTypes)
    for (Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric})
      for (int bits : {2, 4, 8})
        for (int steps : {1, 40})
          for (std::int64_t size : {1, 31, 33, 128, 257, 1000, 9000, 33000}) {
            const std::int64_t groups = size < 200 ? 3 : 1, out = size < 2000 ? 5 : 2;
            Rng rng(13);
            Values w = random_values(rng, out * groups * size, 0.02);
            for (double& x : w) x = in_type(dtype, x);
            const Shape shape{out, groups * size};
            const HostGrid actual = start_grid(gpu(), w, shape, groups, dtype, bits, symmetry, steps),
                           expected = start_grid(host(), w, shape, groups, DType::f32, bits, symmetry, steps);
            const double last = double((1 << bits) - 1);
            for (std::size_t g = 0; g < expected.scale.size(); ++g) {
              const double* group = &w[g * std::size_t(size)];
              const auto reached = [&](const HostGrid& grid) {
                return squared_error(group, std::size_t(size), grid.scale[g], grid.zero[g], last);
              };
              const bool same = std::abs(actual.scale[g] - expected.scale[g]) <= 1e-6 * expected.scale[g] &&
                                actual.zero[g] == expected.zero[g];
              // Two ratios may err alike but for the last digits: then the error decides, not the ratio.
              EXPECT_TRUE(same || (steps > 1 && reached(actual) <= reached(expected) * (1 + 1e-5) + 1e-14))
                  << actual.scale[g] << " and " << expected.scale[g] << ", bits " << bits << ", size " << size << ", "
                  << dtype;
            }
          }
}

TEST(CudaStartGrid, ExtremeGroups) {
  for (Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric})
    for (int steps : {1, 40})
      for (double value : {0.0, 0.7, -0.7, 1e-44, -3e-39, 3e38}) {
        const Values w(40, value);
        const HostGrid actual = start_grid(gpu(), w, {1, 40}, 1, DType::f32, 4, symmetry, steps),
                       expected = start_grid(host(), w, {1, 40}, 1, DType::f32, 4, symmetry, steps);
        EXPECT_TRUE(value != 0 || actual.scale[0] == 1) << actual.scale[0];
        if (steps == 1 || value == 0) {
          EXPECT_EQ(actual.scale, expected.scale) << value;
          EXPECT_EQ(actual.zero, expected.zero) << value;
        }
        EXPECT_TRUE(actual.scale[0] >= double(std::numeric_limits<float>::min()) && std::isfinite(actual.scale[0]));
      }
  for (std::int64_t size : {3, 300}) {
    Values w(std::size_t(size), 1.0);
    w[1] = std::nan("");
    EXPECT_TRUE(std::isnan(start_grid(gpu(), w, {1, size}, 1, DType::bf16, 4, Symmetry::symmetric, 40).scale[0]));
  }
  // Weights on a grid of their own: every ratio that loses nothing ties with 1 at best, and 1 wins.
  const HostGrid own = start_grid(gpu(), {0, 1, 2, 3}, {1, 4}, 1, DType::f32, 2, Symmetry::asymmetric, 40);
  EXPECT_EQ(own.scale[0], 1);
  EXPECT_EQ(own.zero[0], 0);
}

// The same grid and the same decisions: f32 values are equal bit for bit, at every way of spreading a row.
TEST(CudaFakeQuant, RowsOfEveryLengthAreThoseOfTheCpu) {
  Rng rng(14);
  for (std::int64_t cols : {1, 31, 257, 2048, 8192, 8200, 22016, 40000})
    for (Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric})
      for (DType dtype : kTypes) {
        const std::int64_t row_count = 3;
        Values x = random_values(rng, row_count * cols, 2), dy = random_values(rng, row_count * cols, 1);
        for (Values* values : {&x, &dy})
          for (double& v : *values) v = in_type(dtype, v);
        struct Outputs {
          std::vector<float> y, dx;
          Values dfactor;
        };
        const auto run = [&](Context& ctx, DType type) {
          const Shape shape{row_count, cols};
          const Tensor tx = from_host<double>(ctx, shape, type, x), tdy = from_host<double>(ctx, shape, type, dy);
          const Tensor factor = full(ctx, {1}, type == DType::f64 ? DType::f64 : DType::f32, double(0.8f));
          const Tensor y(ctx, shape, type), dx(ctx, shape, type), dfactor(ctx, {1}, factor.dtype());
          ctx.kernels->fake_quant_forward(ctx, y, {}, tx, {factor, 4, symmetry});
          ctx.kernels->fake_quant_backward(ctx, dx, dfactor, tdy, tx, {factor, 4, symmetry});
          return Outputs{to_host<float>(ctx, y), to_host<float>(ctx, dx), to_host<double>(ctx, dfactor)};
        };
        const Outputs actual = run(gpu(), dtype), again = run(gpu(), dtype);
        Outputs expected = run(host(), DType::f32);
        for (float& v : expected.y) v = float(in_type(dtype, double(v)));
        EXPECT_EQ(actual.y, expected.y) << cols << ", " << dtype;
        EXPECT_EQ(actual.dx, expected.dx) << cols << ", " << dtype;
        EXPECT_EQ(actual.dfactor, again.dfactor);
        EXPECT_NEAR(actual.dfactor[0], expected.dfactor[0], 1e-5 * std::sqrt(double(x.size())) * 8) << cols;
      }
}

// Where the two ops hold a row in another shape, sums of rows and so the last bits of gradients differ; values do not.
TEST(CudaFakeQuant, FusedOpsAreTheTwoOps) {
  Rng rng(15);
  for (std::int64_t cols : {1, 31, 257, 2048, 8192, 8200, 22016, 32768, 40000})
    for (Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric})
      for (const auto& [dtype, first] : {std::pair(DType::f32, 1.0),
                                         {DType::bf16, 1.0},
                                         {DType::f32, std::nan("")},
                                         {DType::bf16, std::nan("")}}) {  // a NaN hides dfactor, and nothing else
        const auto drawn = [&](Shape shape, DType type) {
          return from_host<double>(gpu(), shape, type, random_values(rng, shape.count(), 2));
        };
        Values values = random_values(rng, 3 * cols, 2);
        values[std::size_t(cols)] = first;  // of the second row
        const Tensor x = from_host<double>(gpu(), {3, cols}, dtype, values);
        const Tensor up = drawn({3, cols}, dtype), w = drawn({cols}, dtype), dy = drawn({3, cols}, dtype);
        const Tensor bias = drawn({cols}, dtype);
        const Tensor factor = full(gpu(), {1}, DType::f32, 0.8);
        const auto run = [&](const auto& op) {
          Tape tape(gpu());
          const std::array<Var, 3> in = {tape.leaf(x), tape.leaf(up), tape.leaf(factor)};
          const Var y = op(in[0], in[1], ops::ActivationQuantiserVars{in[2], 4, symmetry});
          std::vector<Values> results = {to_host<double>(gpu(), y.value)};
          tape.backward(y, dy);
          for (const Var& v : in)
            if (v.slot->grad) results.push_back(to_host<double>(gpu(), v.slot->grad));
          return results;
        };
        const auto compare = [&](const std::string& what, const auto& fused, const auto& two) {
          const std::vector<Values> actual = run(fused), again = run(fused), expected = run(two);
          ASSERT_EQ(actual.size(), expected.size());
          for (std::size_t i = 0; i < actual.size(); ++i)
            for (std::size_t j = 0; j < actual[i].size(); ++j) {
              const double a = actual[i][j], e = expected[i][j];
              if (std::isnan(e)) {
                ASSERT_TRUE(std::isnan(a) && std::isnan(again[i][j])) << what << " " << cols << " " << i << " " << j;
                continue;
              }
              const double slack = i == 0 ? 0 : dtype == DType::f32 ? 1e-4 : 1e-2;
              ASSERT_EQ(a, again[i][j]) << what;
              ASSERT_NEAR(a, e, slack * (1 + std::abs(e))) << what << " " << cols << " " << dtype << " " << i;
            }
        };
        compare(
            "rms_norm",
            [&](const Var& a, const Var&, const auto& q) { return ops::rms_norm_quant(gpu(), a, w, 1e-5, q); },
            [&](const Var& a, const Var&, const auto& q) {
              return ops::fake_quant(gpu(), ops::rms_norm(gpu(), a, w, 1e-5), q);
            });
        const double eps = narrow_eps(cols);
        compare(
            "layer_norm",
            [&](const Var& a, const Var&, const auto& q) { return ops::layer_norm_quant(gpu(), a, w, bias, eps, q); },
            [&](const Var& a, const Var&, const auto& q) {
              return ops::fake_quant(gpu(), ops::layer_norm(gpu(), a, w, bias, eps), q);
            });
        for (Activation kind : {Activation::relu, Activation::silu, Activation::gelu, Activation::gelu_tanh})
          compare(
              concat("activation ", int(kind)),
              [&](const Var& a, const Var&, const auto& q) { return ops::activation_quant(gpu(), a, kind, q); },
              [&](const Var& a, const Var&, const auto& q) {
                return ops::fake_quant(gpu(), ops::activation(gpu(), a, kind), q);
              });
        compare(
            "gated", [&](const Var& a, const Var& b, const auto& q) { return ops::gated_quant(gpu(), a, b, q); },
            [&](const Var& a, const Var& b, const auto& q) {
              return ops::fake_quant(gpu(), ops::gated(gpu(), a, b), q);
            });
      }
}

TEST(CudaFakeQuant, ZeroRowsStayZeroAndNanShows) {
  for (DType dtype : kTypes)
    for (std::int64_t cols : {33, 64})
      for (Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric}) {
        Values x(std::size_t(3 * cols), 0.0);
        const std::size_t second = std::size_t(cols), third = 2 * second;
        x[second + 7] = std::nan(""), x[second + 8] = 1, x[third + 1] = std::numeric_limits<double>::infinity();
        const Tensor t = from_host<double>(gpu(), {3, cols}, dtype, x), factor = full(gpu(), {1}, DType::f32, 1);
        const Tensor y(gpu(), t.shape(), dtype);
        gpu().kernels->fake_quant_forward(gpu(), y, {}, t, {factor, 4, symmetry});
        const Values got = to_host<double>(gpu(), y);
        for (std::size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(i < second ? got[i] == 0 : std::isnan(got[i])) << i;
      }
}

}  // namespace
}  // namespace cbq::test
