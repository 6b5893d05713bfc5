// The integers of quantisers, on any device: their steps times them are the values.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "autograd/ops.h"
#include "core/rng.h"

namespace cbq::test {

// value = step integer rounded to the type, integers whole and up to 16; NaN where the value is NaN.
inline void expect_integers(Context& ctx, const Var& y, const std::string& what) {
  ASSERT_TRUE(bool(y.integers)) << what;
  const std::int64_t rows = y.value.rows(), cols = y.value.cols();
  ASSERT_EQ(y.integers.integers.shape(), y.shape()) << what;
  ASSERT_EQ(y.integers.step.count(), rows) << what;
  const std::vector<double> value = to_host<double>(ctx, y.value), step = to_host<double>(ctx, y.integers.step),
                            integers = to_host<double>(ctx, y.integers.integers);
  for (std::size_t i = 0; i < value.size(); ++i) {
    const double integer = integers[i], s = step[i / std::size_t(cols)];
    if (std::isnan(value[i])) {
      ASSERT_TRUE(std::isnan(integer * s)) << what << ", " << i;
      continue;
    }
    ASSERT_EQ(integer, std::nearbyint(integer)) << what << ", " << i;
    ASSERT_LE(std::abs(integer), kLargestInteger) << what << ", " << i;
    const double product = y.value.dtype() == DType::f64 ? s * integer : double(float(s) * float(integer));
    ASSERT_EQ(value[i], y.value.dtype() == DType::bf16 ? double(bf16_to_f32(f32_to_bf16(float(product)))) : product)
        << what << ", " << i;
  }
}

// Every quantiser on matrices of several widths, one row of zeros, one with a NaN.
inline void check_integers(Context& ctx, DType dtype) {
  Rng rng(21);
  const DType learned = statistics_dtype(dtype);
  const auto random = [&](Shape shape, DType type, double deviation) {
    std::vector<double> values(std::size_t(shape.count()));
    for (double& v : values) v = deviation * rng.normal();
    return from_host<double>(ctx, shape, type, values);
  };
  const Tensor factor = full(ctx, {1}, learned, 0.8);
  for (std::int64_t cols : {1, 31, 64, 257, 2048, 9000, 22016, 40000}) {
    std::vector<double> values(std::size_t(4 * cols));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = i < values.size() / 4 ? 0 : rng.normal();
    values.back() = std::nan("");
    const Tensor x = from_host<double>(ctx, {4, cols}, dtype, values), up = random({4, cols}, dtype, 1);
    const Tensor w = random({cols}, dtype, 1), b = random({cols}, dtype, 1);
    for (auto [bits, symmetry] :
         {std::pair{4, Symmetry::asymmetric}, {2, Symmetry::asymmetric}, {5, Symmetry::symmetric}}) {
      const ops::ActivationQuantiserVars q{factor, bits, symmetry, ops::Form::with_integers};
      const std::string what = concat(cols, " columns, ", bits, " bits, ", dtype);
      expect_integers(ctx, ops::fake_quant(ctx, x, q), "fake_quant, " + what);
      expect_integers(ctx, ops::rms_norm_quant(ctx, x, w, 1e-5, q), "rms_norm_quant, " + what);
      expect_integers(ctx, ops::layer_norm_quant(ctx, x, w, b, 1e-5, q), "layer_norm_quant, " + what);
      expect_integers(ctx, ops::activation_quant(ctx, x, Activation::relu, q), "activation_quant, " + what);
      expect_integers(ctx, ops::gated_quant(ctx, x, up, q), "gated_quant, " + what);
      ops::ActivationQuantiserVars values_alone = q;
      values_alone.form = ops::Form::values;
      EXPECT_FALSE(bool(ops::fake_quant(ctx, x, values_alone).integers));
    }
  }
  for (auto [out, in] : {std::pair{33, 31}, {257, 64}, {64, 520}, {300, 1056}})
    for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid_hard})
      for (int offset : {0, 1, 2}) {  // none, dense, factors
        const Tensor scale = full(ctx, {out, 1}, learned, 0.01), zero = full(ctx, {out, 1}, learned, 7);
        ops::WeightQuantiserVars q{random({out, in}, dtype, 0.05), scale, zero, 4, rounder, {}, {}, {}};
        if (offset == 1) q.dense = random({out, in}, learned, 0.5);
        if (offset == 2) q.a1 = random({out, 5}, learned, 0.4), q.a2 = random({5, in}, learned, 0.4);
        q.form = ops::Form::with_integers;
        expect_integers(ctx, ops::quantise_weight(ctx, q),
                        concat("quantise_weight ", out, "x", in, ", rounder ", int(rounder), ", offset ", offset));
      }
}

}  // namespace cbq::test
