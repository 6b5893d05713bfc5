// Matrix products, rotary positions and attention of the CPU backend against the formulas of core/kernels.h in long
// double.
#include <limits>

#include "core/kernels.h"
#include "tests/cases.h"
#include "tests/cpu_reference.h"

namespace cbq::test {
namespace {

template <class T>
class CpuAttention : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuAttention, FloatTypes);

using Real = long double;

TYPED_TEST(CpuAttention, Matmul) {
  using T = TypeParam;
  struct Size {
    std::int64_t m, n, k, gap;
  };
  const Size sizes[] = {{1, 1, 1, 0},    {31, 33, 32, 3}, {1, 257, 64, 0},
                        {257, 1, 33, 2}, {4, 5, 0, 0},    {300, 130, 257, 1}};
  for (const Size& s : sizes)
    for (Trans trans_a : {Trans::no, Trans::yes})
      for (Trans trans_b : {Trans::no, Trans::yes})
        for (Addend addend : {Addend::none, Addend::apart, Addend::in_place})
          for (int with_bias : {0, 1}) {
            const bool ta = trans_a == Trans::yes, tb = trans_b == Trans::yes;
            const Matrix a = random_matrix(ta ? s.k : s.m, ta ? s.m : s.k, 1),
                         b = random_matrix(tb ? s.n : s.k, tb ? s.k : s.n, 2);
            const Matrix bias = random_matrix(1, s.n, 3), before = random_matrix(s.m, s.n, 4);
            const auto got = run_on_threads(
                [&](Context& ctx) {
                  const Tensor added = tensor<T>(ctx, before, s.gap + 1);
                  const Tensor y = addend == Addend::in_place ? added : output<T>(ctx, s.m, s.n, s.gap);
                  ctx.kernels->matmul(ctx, y, tensor<T>(ctx, a, s.gap), trans_a, tensor<T>(ctx, b, s.gap), trans_b,
                                      with_bias ? View(vector_tensor<T>(ctx, bias)) : View{},
                                      addend == Addend::none ? View{} : View(added));
                  return std::vector<Tensor>{y};
                },
                Bits::one_per_thread_count);
            Matrix y(s.m, s.n);
            for (std::int64_t i = 0; i < s.m; ++i)
              for (std::int64_t j = 0; j < s.n; ++j) {
                y(i, j) = (with_bias ? bias(0, j) : 0) + (addend == Addend::none ? 0 : before(i, j));
                for (std::int64_t l = 0; l < s.k; ++l) y(i, j) += (ta ? a(l, i) : a(i, l)) * (tb ? b(j, l) : b(l, j));
              }
            // The library sums in the type itself.
            expect_near<T>(got[0], y, concat("matmul (", s.m, ", ", s.k, ", ", s.n, ")"), 4e-14);
          }
}

TYPED_TEST(CpuAttention, RopeTurnsThereAndBack) {
  using T = TypeParam;
  constexpr std::int64_t kBatch = 2, kTokens = 33, kHeads = 3, kDim = 34, kHalf = kDim / 2;
  const Matrix x = random_matrix(kBatch * kTokens, kHeads * kDim, 1);
  Matrix cos(kTokens, kHalf), sin(kTokens, kHalf), y(x.rows, x.cols);
  for (std::int64_t t = 0; t < kTokens; ++t)
    for (std::int64_t i = 0; i < kHalf; ++i) {
      const Real angle = Real(t) * std::pow(Real(10000), -2 * Real(i) / kDim);
      cos(t, i) = float(std::cos(angle));
      sin(t, i) = float(std::sin(angle));
    }
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t i = 0; i < kHalf; ++i)
      for (std::int64_t h = 0; h < kHeads; ++h) {
        const std::int64_t low = h * kDim + i, high = low + kHalf, t = r % kTokens;
        y(r, low) = x(r, low) * cos(t, i) - x(r, high) * sin(t, i);
        y(r, high) = x(r, high) * cos(t, i) + x(r, low) * sin(t, i);
      }
  const auto got = run_on_threads([&](Context& ctx) {
    const Tensor c = tensor<T>(ctx, cos, 1), s = tensor<T>(ctx, sin, 2), out = output<T>(ctx, x.rows, x.cols, 5);
    ctx.kernels->rope(ctx, out.heads(kBatch, kHeads), tensor<T>(ctx, x, 3).heads(kBatch, kHeads), c, s,
                      Rotation::forward);
    const Tensor back = copy(ctx, out);
    ctx.kernels->rope(ctx, back.heads(kBatch, kHeads), back.heads(kBatch, kHeads), c, s,
                      Rotation::inverse);  // in place
    return std::vector<Tensor>{out, back};
  });
  expect_near<T>(got[0], y, "rope");
  expect_near<T>(got[1], x, "rope inverse", sizeof(T) == 4 ? 1e-14 : 1e-7);  // cos^2 + sin^2 = 1 up to float
}

struct Sizes {
  std::int64_t batch, queries, keys, heads, key_heads, dim;
};

// Indexed (b, t, h, c) in rows b * T + t and columns h * D + c.
struct Reference {
  Matrix o, lse, dq, dk, dv;
};

Reference reference(const Sizes& s, const Matrix& q, const Matrix& k, const Matrix& v, const Matrix& d_o, Real scale) {
  Reference y{Matrix(q.rows, q.cols), Matrix(s.batch * s.heads, s.queries), Matrix(q.rows, q.cols),
              Matrix(k.rows, k.cols), Matrix(k.rows, k.cols)};
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t i = 0; i < s.queries; ++i) {
        const std::int64_t seen = s.keys - s.queries + i + 1, row = b * s.queries + i, col = h * s.dim;
        const std::int64_t key_row = b * s.keys, key_col = h / (s.heads / s.key_heads) * s.dim;
        std::vector<Real> p(std::size_t(seen), 0), dp(std::size_t(seen), 0);
        Real sum = 0, delta = 0;
        for (std::int64_t j = 0; j < seen; ++j) {
          Real score = 0;
          for (std::int64_t c = 0; c < s.dim; ++c) {
            score += q(row, col + c) * k(key_row + j, key_col + c);
            dp[std::size_t(j)] += d_o(row, col + c) * v(key_row + j, key_col + c);
          }
          sum += p[std::size_t(j)] = std::exp(scale * score);
        }
        y.lse(b * s.heads + h, i) = std::log(sum);
        for (std::int64_t j = 0; j < seen; ++j) delta += (p[std::size_t(j)] /= sum) * dp[std::size_t(j)];
        for (std::int64_t j = 0; j < seen; ++j)
          for (std::int64_t c = 0; c < s.dim; ++c) {
            const Real prob = p[std::size_t(j)], ds = scale * prob * (dp[std::size_t(j)] - delta);
            y.o(row, col + c) += prob * v(key_row + j, key_col + c);
            y.dq(row, col + c) += ds * k(key_row + j, key_col + c);
            y.dk(key_row + j, key_col + c) += ds * q(row, col + c);
            y.dv(key_row + j, key_col + c) += prob * d_o(row, col + c);
          }
      }
  return y;
}

TYPED_TEST(CpuAttention, AgreesWithTheFullMatrixOfScores) {
  using T = TypeParam;
  const Sizes sizes[] = {{1, 1, 1, 1, 1, 1},   {2, 31, 31, 2, 2, 8},    {1, 65, 65, 4, 2, 33},   {1, 1, 77, 4, 2, 16},
                         {2, 5, 130, 3, 1, 9}, {3, 200, 200, 6, 3, 16}, {1, 257, 300, 4, 1, 32}, {40, 70, 70, 1, 1, 4}};
  for (const Sizes& s : sizes) {
    const std::string what =
        concat("B ", s.batch, ", Tq ", s.queries, ", Tk ", s.keys, ", H ", s.heads, "/", s.key_heads, ", D ", s.dim);
    const Matrix q = random_matrix(s.batch * s.queries, s.heads * s.dim, 1), d_o = random_matrix(q.rows, q.cols, 2);
    const Matrix k = random_matrix(s.batch * s.keys, s.key_heads * s.dim, 3), v = random_matrix(k.rows, k.cols, 4);
    const double scale = 0.4;
    const auto got = run_on_threads([&](Context& ctx) {
      const auto query = [&](const Tensor& x) { return x.heads(s.batch, s.heads); };
      const auto key = [&](const Tensor& x) { return x.heads(s.batch, s.key_heads); };
      const Tensor qt = tensor<T>(ctx, q, 3), kt = tensor<T>(ctx, k, 5), vt = tensor<T>(ctx, v),
                   dot = tensor<T>(ctx, d_o, 1);
      const Tensor o = output<T>(ctx, q.rows, q.cols, 2), lse(ctx, {s.batch, s.heads, s.queries}, kType<T>);
      ctx.kernels->attention_forward(ctx, query(o), lse, query(qt), key(kt), key(vt), scale);

      const Tensor dq = output<T>(ctx, q.rows, q.cols), dk = output<T>(ctx, k.rows, k.cols, 4),
                   dv = output<T>(ctx, k.rows, k.cols, 7);
      const Tensor dv_alone = output<T>(ctx, k.rows, k.cols);
      ctx.kernels->attention_backward(ctx, query(dq), key(dk), key(dv), query(dot), query(qt), key(kt), key(vt),
                                      query(o), lse, scale);
      ctx.kernels->attention_backward(ctx, {}, {}, key(dv_alone), query(dot), query(qt), key(kt), key(vt), query(o),
                                      lse, scale);
      return std::vector<Tensor>{o, lse, dq, dk, dv, dv_alone};
    });
    const Reference want = reference(s, q, k, v, d_o, Real(T(scale)));
    const double tolerance = 1e-14;  // products are summed in the type itself, and lse is rounded to it
    expect_near<T>(got[0], want.o, "o, " + what, tolerance);
    expect_near<T>(got[1], want.lse, "lse, " + what, tolerance);
    expect_near<T>(got[2], want.dq, "dq, " + what, tolerance);
    expect_near<T>(got[3], want.dk, "dk, " + what, tolerance);
    expect_near<T>(got[4], want.dv, "dv, " + what, tolerance);
    EXPECT_EQ(got[4], got[5]) << what;
  }
}

}  // namespace
}  // namespace cbq::test
