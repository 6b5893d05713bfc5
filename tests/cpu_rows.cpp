// The CPU kernels that sum over rows or columns, and the lookups, against the formulas of core/kernels.h in long
// double.
#include <algorithm>
#include <limits>

#include "core/kernels.h"
#include "tests/cpu_reference.h"

namespace cbq::test {
namespace {

template <class T>
class CpuRows : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuRows, FloatTypes);

using Real = long double;

struct Size {
  std::int64_t rows, cols, gap;
};
const Size kSizes[] = {{1, 1, 0}, {3, 31, 2}, {2, 32, 0}, {5, 33, 7}, {130, 257, 3}, {70, 257, 0}, {4, 5000, 1}};
constexpr double kEps = 1e-5;

TYPED_TEST(CpuRows, Reductions) {
  using T = TypeParam;
  for (const Size& s : kSizes) {
    SCOPED_TRACE(concat(s.rows, " x ", s.cols));
    const Matrix x = random_matrix(s.rows, s.cols, 1);
    const auto got = run_on_threads([&](Context& ctx) {
      const Tensor in = tensor<T>(ctx, x, s.gap), dy = vector_tensor<T>(ctx, random_matrix(1, 1, 2));
      const Tensor sum(ctx, {s.cols}, kType<T>), low(ctx, {s.cols}, kType<T>), high(ctx, {s.cols}, kType<T>);
      const Tensor mean(ctx, {1}, kType<T>), sorted(ctx, {s.rows * s.cols}, kType<T>),
          dx = output<T>(ctx, s.rows, s.cols, 2);
      ctx.kernels->column_sum(ctx, sum, in);
      ctx.kernels->column_range(ctx, low, high, in);
      ctx.kernels->mean_forward(ctx, mean, in);
      ctx.kernels->mean_backward(ctx, dx, dy);
      ctx.kernels->sort_magnitudes(ctx, sorted, in);
      return std::vector<Tensor>{sum, low, high, mean, dx, sorted};
    });

    Matrix sum(1, s.cols), low(1, s.cols), high(1, s.cols), mean(1, 1), dx(s.rows, s.cols), sorted(s.rows, s.cols);
    for (std::int64_t c = 0; c < s.cols; ++c) {
      low(0, c) = high(0, c) = x(0, c);
      for (std::int64_t r = 0; r < s.rows; ++r) {
        sum(0, c) += x(r, c);
        mean(0, 0) += x(r, c) / Real(s.rows * s.cols);
        low(0, c) = std::min(low(0, c), x(r, c));
        high(0, c) = std::max(high(0, c), x(r, c));
        dx(r, c) = random_matrix(1, 1, 2)(0, 0) / Real(s.rows * s.cols);
        sorted(r, c) = std::abs(x(r, c));
      }
    }
    std::sort(sorted.values.begin(), sorted.values.end());
    const Matrix* const want[] = {&sum, &low, &high, &mean, &dx, &sorted};
    for (std::size_t i = 0; i < got.size(); ++i) expect_near<T>(got[i], *want[i], concat("output ", i));
  }
}

TYPED_TEST(CpuRows, ArgmaxAndCountOfNonFinite) {
  using T = TypeParam;
  const auto ctx = cpu::open();
  const Real inf = std::numeric_limits<Real>::infinity(), nan = std::numeric_limits<Real>::quiet_NaN();
  Matrix x(6, 4);
  x.values = {1,    3,    3,    2,    nan,  1,   inf, inf, nan, nan, nan, nan,
              -inf, -inf, -inf, -inf, -inf, nan, -5,  -6,  -1,  -2,  -3,  -1};
  const Tensor index(*ctx, {6}, DType::i32), count(*ctx, {1}, DType::i32);
  ctx->kernels->argmax_rows(*ctx, index, tensor<T>(*ctx, x, 3));
  EXPECT_EQ(to_host<std::int32_t>(*ctx, index), (std::vector<std::int32_t>{1, 2, 0, 0, 2, 0}));
  ctx->kernels->count_non_finite(*ctx, count, tensor<T>(*ctx, x, 3));
  EXPECT_EQ(to_host<std::int32_t>(*ctx, count), std::vector<std::int32_t>{13});
}

TYPED_TEST(CpuRows, RmsNorm) {
  using T = TypeParam;
  for (const Size& s : kSizes) {
    SCOPED_TRACE(concat(s.rows, " x ", s.cols));
    const Matrix x = random_matrix(s.rows, s.cols, 1), w = random_matrix(1, s.cols, 2),
                 dy = random_matrix(s.rows, s.cols, 3);
    const auto got = run_on_threads([&](Context& ctx) {
      const Tensor in = tensor<T>(ctx, x, s.gap), weight = vector_tensor<T>(ctx, w), grad = tensor<T>(ctx, dy, 1);
      const Tensor y = output<T>(ctx, s.rows, s.cols, 4), rstd(ctx, {s.rows}, kType<T>);
      const Tensor dx = output<T>(ctx, s.rows, s.cols, 5), dw(ctx, {s.cols}, kType<T>);
      ctx.kernels->rms_norm_forward(ctx, y, rstd, in, weight, kEps);
      const Tensor sum = tensor<T>(ctx, x, 6), more = tensor<T>(ctx, x, 2);  // x is the addend too
      ctx.kernels->rms_norm_backward(ctx, dx, {}, grad, in, weight, rstd, {});
      ctx.kernels->rms_norm_backward(ctx, {}, dw, grad, in, weight, rstd, {});
      ctx.kernels->rms_norm_backward(ctx, sum, {}, grad, in, weight, rstd, more);
      ctx.kernels->rms_norm_backward(ctx, more, {}, grad, in, weight, rstd, more);
      return std::vector<Tensor>{y, rstd, dx, dw, sum, more};
    });

    Matrix y(s.rows, s.cols), rstd(s.rows, 1), dx(s.rows, s.cols), dw(1, s.cols), sum(s.rows, s.cols);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      Real square = 0, dot = 0;
      for (std::int64_t c = 0; c < s.cols; ++c) square += x(r, c) * x(r, c), dot += w(0, c) * dy(r, c) * x(r, c);
      const Real k = rstd(r, 0) = 1 / std::sqrt(square / Real(s.cols) + kEps);
      for (std::int64_t c = 0; c < s.cols; ++c) {
        y(r, c) = x(r, c) * k * w(0, c);
        dx(r, c) = k * (w(0, c) * dy(r, c) - x(r, c) * k * k * dot / Real(s.cols));
        sum(r, c) = dx(r, c) + x(r, c);
        dw(0, c) += dy(r, c) * x(r, c) * k;
      }
    }
    const Matrix* const want[] = {&y, &rstd, &dx, &dw, &sum, &sum};
    for (std::size_t i = 0; i < got.size(); ++i) expect_near<T>(got[i], *want[i], concat("output ", i));
  }
}

TYPED_TEST(CpuRows, LayerNorm) {
  using T = TypeParam;
  for (const Size& s : kSizes) {
    SCOPED_TRACE(concat(s.rows, " x ", s.cols));
    const Matrix x = random_matrix(s.rows, s.cols, 1), dy = random_matrix(s.rows, s.cols, 3);
    const Matrix w = random_matrix(1, s.cols, 2), b = random_matrix(1, s.cols, 4);
    const auto got = run_on_threads([&](Context& ctx) {
      const Tensor in = tensor<T>(ctx, x, s.gap), weight = vector_tensor<T>(ctx, w), grad = tensor<T>(ctx, dy, 1);
      const Tensor y = output<T>(ctx, s.rows, s.cols, 4), mean(ctx, {s.rows}, kType<T>), rstd(ctx, {s.rows}, kType<T>);
      const Tensor dx = output<T>(ctx, s.rows, s.cols, 5), dw(ctx, {s.cols}, kType<T>), db(ctx, {s.cols}, kType<T>);
      ctx.kernels->layer_norm_forward(ctx, y, mean, rstd, in, weight, vector_tensor<T>(ctx, b), kEps);
      const Tensor sum = tensor<T>(ctx, x, 6), more = tensor<T>(ctx, x, 2);  // x is the addend too
      ctx.kernels->layer_norm_backward(ctx, dx, {}, db, grad, in, weight, mean, rstd, {});
      ctx.kernels->layer_norm_backward(ctx, {}, dw, {}, grad, in, weight, mean, rstd, {});
      ctx.kernels->layer_norm_backward(ctx, sum, {}, {}, grad, in, weight, mean, rstd, more);
      ctx.kernels->layer_norm_backward(ctx, more, {}, {}, grad, in, weight, mean, rstd, more);
      return std::vector<Tensor>{y, mean, rstd, dx, dw, db, sum, more};
    });

    Matrix y(s.rows, s.cols), mean(s.rows, 1), rstd(s.rows, 1), dx(s.rows, s.cols), dw(1, s.cols), db(1, s.cols);
    Matrix dx_and_x(s.rows, s.cols);
    const Real n = Real(s.cols);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      Real variance = 0, sum = 0, dot = 0;
      for (std::int64_t c = 0; c < s.cols; ++c) mean(r, 0) += x(r, c) / n;
      for (std::int64_t c = 0; c < s.cols; ++c) variance += (x(r, c) - mean(r, 0)) * (x(r, c) - mean(r, 0)) / n;
      const Real k = rstd(r, 0) = 1 / std::sqrt(variance + kEps);
      for (std::int64_t c = 0; c < s.cols; ++c) {
        sum += w(0, c) * dy(r, c);
        dot += w(0, c) * dy(r, c) * (x(r, c) - mean(r, 0)) * k;
      }
      for (std::int64_t c = 0; c < s.cols; ++c) {
        const Real centred = (x(r, c) - mean(r, 0)) * k;
        y(r, c) = centred * w(0, c) + b(0, c);
        dx(r, c) = k * (w(0, c) * dy(r, c) - sum / n - centred * dot / n);
        dx_and_x(r, c) = dx(r, c) + x(r, c);
        dw(0, c) += dy(r, c) * centred;
        db(0, c) += dy(r, c);
      }
    }
    const Matrix* const want[] = {&y, &mean, &rstd, &dx, &dw, &db, &dx_and_x, &dx_and_x};
    // One column has variance 0 and rstd 1/sqrt(eps) = 316: the cancelling terms of dx are that much larger than dx.
    const double tolerance = s.cols == 1 ? 1e-12 : 1e-14;
    for (std::size_t i = 0; i < got.size(); ++i) expect_near<T>(got[i], *want[i], concat("output ", i), tolerance);
  }
}

TYPED_TEST(CpuRows, Softmax) {
  using T = TypeParam;
  for (const Size& s : kSizes) {
    SCOPED_TRACE(concat(s.rows, " x ", s.cols));
    Matrix x = random_matrix(s.rows, s.cols, 1, 4);
    const Matrix dy = random_matrix(s.rows, s.cols, 2);
    for (std::int64_t r = 0; r < s.rows; r += 2)
      for (std::int64_t c = 0; c < s.cols; ++c)
        x(r, c) = float(x(r, c) + 1000);  // overflows without the maximum taken off
    const auto got = run_on_threads([&](Context& ctx) {
      const Tensor y = output<T>(ctx, s.rows, s.cols, s.gap), dx = output<T>(ctx, s.rows, s.cols, 1);
      ctx.kernels->softmax_forward(ctx, y, tensor<T>(ctx, x, s.gap));
      ctx.kernels->softmax_backward(ctx, dx, tensor<T>(ctx, dy), y);
      return std::vector<Tensor>{y, dx};
    });

    Matrix y(s.rows, s.cols), dx(s.rows, s.cols);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      Real largest = x(r, 0), sum = 0, dot = 0;
      for (std::int64_t c = 0; c < s.cols; ++c) largest = std::max(largest, x(r, c));
      for (std::int64_t c = 0; c < s.cols; ++c) sum += y(r, c) = std::exp(x(r, c) - largest);
      for (std::int64_t c = 0; c < s.cols; ++c) dot += dy(r, c) * (y(r, c) /= sum);
      for (std::int64_t c = 0; c < s.cols; ++c) dx(r, c) = y(r, c) * (dy(r, c) - dot);
    }
    expect_near<T>(got[0], y, "y");
    expect_near<T>(got[1], dx, "dx");
  }
}

TYPED_TEST(CpuRows, Embedding) {
  using T = TypeParam;
  for (const Size& s : kSizes) {
    SCOPED_TRACE(concat(s.rows, " x ", s.cols));
    const std::int64_t vocabulary = 40;
    const Matrix table = random_matrix(vocabulary, s.cols, 1), dy = random_matrix(s.rows, s.cols, 2);
    std::vector<std::int32_t> ids;
    for (std::int64_t r = 0; r < s.rows; ++r) ids.push_back(std::int32_t(r * 7 % 23 + (r == 0 ? 39 : 0)));
    const auto got = run_on_threads([&](Context& ctx) {
      const Tensor id = from_host<std::int32_t>(ctx, {s.rows}, DType::i32, ids);
      const Tensor y = output<T>(ctx, s.rows, s.cols, s.gap), dtable = output<T>(ctx, vocabulary, s.cols, s.gap);
      ctx.kernels->embedding_forward(ctx, y, tensor<T>(ctx, table, 2), id);
      ctx.kernels->embedding_backward(ctx, dtable, tensor<T>(ctx, dy, s.gap), id);
      return std::vector<Tensor>{y, dtable};
    });

    Matrix y(s.rows, s.cols), dtable(vocabulary, s.cols);
    for (std::int64_t r = 0; r < s.rows; ++r)
      for (std::int64_t c = 0; c < s.cols; ++c) {
        y(r, c) = table(ids[std::size_t(r)], c);
        dtable(ids[std::size_t(r)], c) += dy(r, c);
      }
    expect_near<T>(got[0], y, "y");
    expect_near<T>(got[1], dtable, "dtable");
  }

  const auto ctx = cpu::open();
  for (std::int32_t id : {-1, 3}) {
    const Tensor ids = from_host<std::int32_t>(*ctx, {1}, DType::i32, std::vector<std::int32_t>{id});
    const Tensor table = full(*ctx, {3, 2}, kType<T>, 0), row = full(*ctx, {1, 2}, kType<T>, 0);
    EXPECT_THROW(ctx->kernels->embedding_forward(*ctx, row, table, ids), Error);
    EXPECT_THROW(ctx->kernels->embedding_backward(*ctx, table, row, ids), Error);
  }
}

}  // namespace
}  // namespace cbq::test
