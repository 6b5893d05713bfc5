// How numbers are compared and gradients are checked. Every comparison is written so that NaN fails.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "cpu/open.h"
#include "tests/cases.h"

namespace cbq::test {

// Fresh memory holds NaN, so that a kernel which forgets an output fails.
inline std::unique_ptr<Context> open_cpu(int threads = 0) {
  return cpu::open(threads, FreshMemory::nan_bytes);
}

// Largest error of a result against f64 on the same inputs, relative to the largest entry of the f64 result.
inline double tolerance(DType t) {
  switch (t) {
    case DType::f64: return 1e-12;
    case DType::f32: return 1e-5;
    case DType::f16: return 4e-3;
    default: return 3e-2;
  }
}
// Relative error of a directional derivative in f64.
constexpr double kGradientTolerance = 1e-7;

// max |a - b| / max |b|; infinite when a number is not finite or the sizes differ. Of two zeros it is 0.
inline double relative_error(std::span<const double> a, std::span<const double> b) {
  double difference = 0, largest = 0;
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return std::numeric_limits<double>::infinity();
    difference = std::max(difference, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return difference == 0 ? 0 : difference / largest;
}

inline void expect_close(std::span<const double> actual, std::span<const double> expected, double tol,
                         const std::string& what) {
  const double err = relative_error(actual, expected);
  if (!(err <= tol)) ADD_FAILURE() << what << ": relative error " << err << ", allowed " << tol;
}

inline Tensor to_tensor(Context& ctx, const Input& input, DType dtype, std::span<const double> values) {
  if (input.role != Role::index)
    return from_host<double>(ctx, input.shape, input.width == Width::value ? dtype : statistics_dtype(dtype), values);
  const std::vector<std::int32_t> ids(values.begin(), values.end());
  return from_host<std::int32_t>(ctx, input.shape, DType::i32, ids);
}

// The constant gradient that flows into a case's output of `count` elements, exact in every float type.
inline Values seed_gradient(std::int64_t count) {
  Rng rng(7);
  Values values = normal(rng, count);
  for (double& v : values) v = double(bf16_to_f32(f32_to_bf16(float(v))));
  return values;
}

struct Result {
  Values y;
  std::vector<Values> gradients;  // as the inputs; empty for those not differentiated
};

// Forward and backward. only: the one input to differentiate, or -1 for all that the case differentiates.
inline Result evaluate(Context& ctx, const OpCase& c, DType dtype, std::span<const Values> inputs, int only = -1) {
  Tape tape(ctx);
  std::vector<Var> vars;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    Tensor value = to_tensor(ctx, c.inputs[i], dtype, inputs[i]);
    const bool is_leaf = c.inputs[i].role == Role::differentiated && (only < 0 || std::size_t(only) == i);
    vars.push_back(is_leaf ? tape.leaf(std::move(value)) : Var(std::move(value)));
  }
  const Var y = c.run(ctx, vars);
  Result result{to_host<double>(ctx, y.value), {}};
  tape.backward(y, from_host<double>(ctx, y.shape(), y.value.dtype(), seed_gradient(y.value.count())));
  for (const Var& var : vars) {
    if (var.slot) {
      EXPECT_TRUE(bool(var.slot->grad)) << "no gradient arrived";
      if (!var.slot->grad) return result;
      EXPECT_EQ(var.slot->grad.shape(), var.shape());
    }
    result.gradients.push_back(var.slot ? to_host<double>(ctx, var.slot->grad) : Values());
  }
  return result;
}

inline Values forward(Context& ctx, const OpCase& c, DType dtype, std::span<const Values> inputs) {
  std::vector<Var> vars;
  for (std::size_t i = 0; i < inputs.size(); ++i) vars.emplace_back(to_tensor(ctx, c.inputs[i], dtype, inputs[i]));
  return to_host<double>(ctx, c.run(ctx, vars).value);
}

inline double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// Compares <gradient, u> of each differentiated input with the derivative of <f, m> along eight random directions u,
// where m is the seed gradient. Differences are central, at steps h, h/2 and h/4, extrapolated twice (Richardson), so
// their error is O(h^6). An error is relative to the derivative, or to |gradient|, the size that it has for a typical
// u.
inline void check_gradients(const OpCase& c, const HostFunction& f, std::span<const Values> point,
                            const Result& result) {
  constexpr double h = 4e-3;
  const Values m = seed_gradient(std::int64_t(result.y.size()));
  // Rounding of f leaves noise of about 1e-16 |m| |f| / h in the difference, which must not count.
  const double noise = 1e-5 * std::sqrt(dot(m, m) * dot(result.y, result.y));
  for (std::size_t i = 0; i < point.size(); ++i) {
    if (c.inputs[i].role != Role::differentiated) continue;
    const Values& gradient = result.gradients[i];
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      Rng rng(100 * i + seed);
      const Values u = normal(rng, std::int64_t(point[i].size()));
      std::vector<Values> moved(point.begin(), point.end());
      const auto value_at = [&](double t) {
        for (std::size_t k = 0; k < u.size(); ++k) moved[i][k] = point[i][k] + t * u[k];
        return dot(f(moved), m);
      };
      const auto difference = [&](double step) { return (value_at(step) - value_at(-step)) / (2 * step); };
      const double d1 = difference(h), d2 = difference(h / 2), d4 = difference(h / 4);
      const double e1 = (4 * d2 - d1) / 3, e2 = (4 * d4 - d2) / 3, numeric = (16 * e2 - e1) / 15;
      const double analytic = dot(gradient, u);
      const double size = std::max({std::abs(numeric), std::sqrt(dot(gradient, gradient)), noise});
      const double err = size == 0 ? 0 : std::abs(analytic - numeric) / size;
      if (!(err <= kGradientTolerance))
        ADD_FAILURE() << "input " << i << ", direction " << seed << ": analytic " << analytic << ", numeric " << numeric
                      << ", relative error " << err;
    }
  }
}

// For INSTANTIATE_TEST_SUITE_P: letters, digits and underscores of the name.
inline std::string case_label(const OpCase& c) {
  std::string name = c.name;
  for (char& ch : name)
    if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '_';
  return name;
}
inline std::string case_name(const testing::TestParamInfo<OpCase>& info) {
  return case_label(info.param);
}

inline void PrintTo(const OpCase& c, std::ostream* out) {
  *out << c.name;
}

}  // namespace cbq::test
