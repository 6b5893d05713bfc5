// The CPU kernels of whole rows and single elements against the formulas of core/kernels.h in long double.
#include "core/kernels.h"
#include "core/rng.h"

#include <bit>
#include <limits>

#include "cpu/vector_math.h"
#include "tests/cpu_reference.h"
#include "tests/pack_cases.h"

namespace cbq::test {
namespace {

template <class T>
class CpuKernels : public testing::Test {};
using FloatTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(CpuKernels, FloatTypes);

using Real = long double;

struct Size {
  std::int64_t rows, cols, gap;
};
// The last two are large enough for threads; 5000 columns are more than one piece of work.
const Size kSizes[] = {{1, 1, 0}, {3, 31, 2}, {2, 32, 0}, {5, 33, 7}, {130, 257, 3}, {70, 257, 0}, {4, 5000, 1}};

std::string print(const char* kernel, Size s) {
  return concat(kernel, " (", s.rows, ", ", s.cols, ") with gap ", s.gap);
}

Matrix per_element(const std::function<Real(Real, Real, Real)>& f, const Matrix& a, const Matrix& b, const Matrix& c) {
  Matrix y(a.rows, a.cols);
  for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] = f(a.values[i], b.values[i], c.values[i]);
  return y;
}

Real silu(Real x) {
  return x / (1 + std::exp(-x));
}
Real silu_slope(Real x) {
  return 1 / (1 + std::exp(-x)) * (1 + x / (1 + std::exp(x)));
}

TEST(VectorMath, ExpKeepsItsErrorBound) {
  double worst = 0;
  for (float from : {0x1p-40f, -0x1p-40f}) {
    const float to = from > 0 ? 88.7228f : -103.9f;
    for (std::uint32_t bits = std::bit_cast<std::uint32_t>(from); bits < std::bit_cast<std::uint32_t>(to); bits += 97) {
      const float x = std::bit_cast<float>(bits);
      const double exact = std::exp(double(x));
      const double ulp = std::ldexp(1.0, std::max(-149, std::ilogb(exact) - 23));
      const double error = std::abs(double(cpu::exp(x)) - exact) / ulp;
      if (!(error <= worst)) worst = error;
    }
  }
  EXPECT_TRUE(worst <= 1.02) << "error of " << worst << " ulp";
  RecordProperty("worst_ulp", std::to_string(worst));

  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(cpu::exp(0.f), 1);
  EXPECT_EQ(cpu::exp(-0.f), 1);
  EXPECT_EQ(cpu::exp(kInfinity), kInfinity);
  EXPECT_EQ(cpu::exp(88.73f), kInfinity);
  EXPECT_EQ(cpu::exp(1e30f), kInfinity);
  EXPECT_EQ(cpu::exp(-kInfinity), 0);
  EXPECT_EQ(cpu::exp(-104.f), 0);
  EXPECT_EQ(cpu::exp(-1e30f), 0);
  EXPECT_TRUE(std::isnan(cpu::exp(std::nanf(""))));
}

TYPED_TEST(CpuKernels, Elementwise) {
  using T = TypeParam;
  for (const Size& s : kSizes) {
    const Matrix a = random_matrix(s.rows, s.cols, 1), b = random_matrix(s.rows, s.cols, 2),
                 c = random_matrix(s.rows, s.cols, 3);
    const Matrix by_row = random_matrix(s.rows, 1, 4), by_column = random_matrix(1, s.cols, 5);
    struct Case {
      const char* name;
      std::function<void(Context&, View, View, View, View)> run;
      std::function<Real(Real, Real, Real)> formula;
    };
    const Case cases[] = {
        {"add", [](Context& x, View y, View u, View v, View) { x.kernels->add(x, y, u, v); },
         [](Real u, Real v, Real) { return u + v; }},
        {"mul", [](Context& x, View y, View u, View v, View) { x.kernels->mul(x, y, u, v); },
         [](Real u, Real v, Real) { return u * v; }},
        {"scale", [](Context& x, View y, View u, View, View) { x.kernels->scale(x, y, u, -1.5); },
         [](Real u, Real, Real) { return -1.5 * u; }},
        {"scaled_exp", [](Context& x, View y, View u, View v, View) { x.kernels->scaled_exp(x, y, u, v); },
         [](Real u, Real v, Real) { return u * std::exp(v); }},
        {"clamp", [](Context& x, View y, View u, View, View) { x.kernels->clamp(x, y, u, -0.25, 0.5); },
         [](Real u, Real, Real) { return std::min(std::max(u, Real(-0.25)), Real(0.5)); }},
        {"convert", [](Context& x, View y, View u, View, View) { x.kernels->convert(x, y, u); },
         [](Real u, Real, Real) { return u; }},
        {"fill", [](Context& x, View y, View, View, View) { x.kernels->fill(x, y, 0.75); },
         [](Real, Real, Real) { return 0.75; }},
        {"gated_forward", [](Context& x, View y, View u, View v, View) { x.kernels->gated_forward(x, y, u, v); },
         [](Real u, Real v, Real) { return silu(u) * v; }},
        {"gated_backward dgate",
         [](Context& x, View y, View u, View v, View w) { x.kernels->gated_backward(x, y, {}, u, v, w); },
         [](Real u, Real v, Real w) { return u * w * silu_slope(v); }},
        {"gated_backward dup",
         [](Context& x, View y, View u, View v, View w) { x.kernels->gated_backward(x, {}, y, u, v, w); },
         [](Real u, Real v, Real) { return u * silu(v); }},
    };
    for (const Case& k : cases) {
      const auto y = run_on_threads([&](Context& ctx) {
        const Tensor out = output<T>(ctx, s.rows, s.cols, s.gap);
        k.run(ctx, out, tensor<T>(ctx, a, s.gap), tensor<T>(ctx, b), tensor<T>(ctx, c, 1));
        return std::vector<Tensor>{out};
      });
      expect_near<T>(y[0], per_element(k.formula, a, b, c), print(k.name, s));
    }

    const auto y = run_on_threads([&](Context& ctx) {
      const Tensor x = tensor<T>(ctx, a, s.gap), rows = output<T>(ctx, s.rows, s.cols, s.gap),
                   columns = output<T>(ctx, s.rows, s.cols);
      ctx.kernels->scale_rows(ctx, rows, x, vector_tensor<T>(ctx, by_row));
      ctx.kernels->scale_columns(ctx, columns, x, vector_tensor<T>(ctx, by_column));
      return std::vector<Tensor>{rows, columns};
    });
    Matrix rows(s.rows, s.cols), columns(s.rows, s.cols);
    for (std::int64_t r = 0; r < s.rows; ++r)
      for (std::int64_t col = 0; col < s.cols; ++col) {
        rows(r, col) = a(r, col) * by_row(r, 0);
        columns(r, col) = a(r, col) * by_column(0, col);
      }
    expect_near<T>(y[0], rows, print("scale_rows", s));
    expect_near<T>(y[1], columns, print("scale_columns", s));
  }
}

TYPED_TEST(CpuKernels, Activations) {
  using T = TypeParam;
  const auto normal = [](Real x) { return std::erfc(-x / std::sqrt(Real(2))) / 2; };
  const Real pi = std::acos(Real(-1));
  const auto inner = [pi](Real x) { return std::sqrt(2 / pi) * (x + Real(0.044715) * x * x * x); };
  struct Case {
    Activation kind;
    std::function<Real(Real)> f, slope;
  };
  const Case cases[] = {
      {Activation::relu, [](Real x) { return x > 0 ? x : 0; }, [](Real x) { return x > 0 ? 1 : 0; }},
      {Activation::silu, silu, silu_slope},
      {Activation::gelu, [&](Real x) { return x * normal(x); },
       [&](Real x) { return normal(x) + x * std::exp(-x * x / 2) / std::sqrt(2 * pi); }},
      {Activation::gelu_tanh, [&](Real x) { return x * (1 + std::tanh(inner(x))) / 2; },
       [&](Real x) {
         const Real t = std::tanh(inner(x));
         return (1 + t) / 2 + x / 2 * (1 - t * t) * std::sqrt(2 / pi) * (1 + 3 * Real(0.044715) * x * x);
       }},
  };
  for (const Size& s : kSizes)
    for (const Case& k : cases) {
      const Matrix x = random_matrix(s.rows, s.cols, 6, 3), dy = random_matrix(s.rows, s.cols, 7);
      const auto got = run_on_threads([&](Context& ctx) {
        const Tensor y = output<T>(ctx, s.rows, s.cols), dx = output<T>(ctx, s.rows, s.cols, s.gap),
                     in = tensor<T>(ctx, x, s.gap);
        ctx.kernels->activation_forward(ctx, y, in, k.kind);
        ctx.kernels->activation_backward(ctx, dx, tensor<T>(ctx, dy), in, k.kind);
        return std::vector<Tensor>{y, dx};
      });
      const std::string what = print(concat("activation ", int(k.kind)).c_str(), s);
      expect_near<T>(got[0], per_element([&](Real u, Real, Real) { return k.f(u); }, x, x, x), what);
      expect_near<T>(got[1], per_element([&](Real u, Real v, Real) { return v * k.slope(u); }, x, dy, x),
                     what + ", dx");
    }
}

TYPED_TEST(CpuKernels, EveryFloatTypeConverts) {
  using T = TypeParam;
  const auto ctx = cpu::open();
  const Matrix m = random_matrix(3, 33, 8);
  const Tensor x = tensor<T>(*ctx, m, 2);
  for (DType middle : {DType::f16, DType::bf16, DType::f8, DType::f32, DType::f64}) {
    const Tensor between(*ctx, {3, 33}, middle), back(*ctx, {3, 33}, kType<T>);
    ctx->kernels->convert(*ctx, between, x);
    ctx->kernels->convert(*ctx, back, between);
    const double tolerance = middle == DType::f16    ? 0x1p-11
                             : middle == DType::bf16 ? 0x1p-8
                             : middle == DType::f8   ? 0x1p-4
                                                     : 0;
    expect_near<double>(to_host<double>(*ctx, back), m, name(middle), tolerance);
  }
  const Tensor ids(*ctx, {4}, DType::i32), copied(*ctx, {4}, DType::i32);
  ctx->kernels->fill(*ctx, ids, -7);
  ctx->kernels->convert(*ctx, copied, ids);
  EXPECT_EQ(to_host<std::int32_t>(*ctx, copied), std::vector<std::int32_t>(4, -7));
  EXPECT_THROW(ctx->kernels->convert(*ctx, copied, x), Error);
}

TEST(CpuCounts, DifferentCodes) {
  const auto ctx = cpu::open();
  for (const std::int64_t size : {1, 31, 33, 257, 100003}) {
    Rng rng(9);
    std::vector<std::uint8_t> a(static_cast<std::size_t>(size)), b(a);
    std::int32_t expected = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] = std::uint8_t(rng.below(3)), b[i] = std::uint8_t(rng.below(3));
      expected += a[i] != b[i];
    }
    const Tensor count(*ctx, {1}, DType::i32);
    ctx->kernels->count_different(*ctx, count, from_host<std::uint8_t>(*ctx, {size}, DType::u8, a),
                                  from_host<std::uint8_t>(*ctx, {size}, DType::u8, b));
    EXPECT_EQ(to_host<std::int32_t>(*ctx, count)[0], expected) << size;
  }
}

TEST(CpuPacking, IsThatOfBitpackAndBack) {
  const auto ctx = cpu::open();
  for (const PackCase& c : pack_cases()) check_packing(*ctx, c);
}

}  // namespace
}  // namespace cbq::test
