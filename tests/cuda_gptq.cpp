// GPTQ on the GPU: the factor of the inverse Hessian and the compensated weights, against the CPU in f64.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/cuda_numbers.h"
#include "tests/error_text.h"

namespace cbq::test {
namespace {

// x^T x / samples + damping with correlated neighbours, (n,n), of floats.
std::vector<float> random_hessian(std::int64_t n, std::uint64_t seed, float damping) {
  const std::int64_t samples = n + 8;
  Tensor x = from_host<float>(host(), {samples, n}, DType::f32, randn(samples * n, seed));
  const Tensor mix = full(host(), {n, n}, DType::f32, 0), mixed(host(), {samples, n}, DType::f32),
               h(host(), {n, n}, DType::f32);
  float* m = static_cast<float*>(mix.data());
  for (std::int64_t i = 0; i < n; ++i) m[i * n + i] = m[i * n + (i + 1) % n] = 1;
  host().kernels->matmul(host(), mixed, x, Trans::no, mix, Trans::no, {}, {});
  host().kernels->matmul(host(), h, mixed, Trans::yes, mixed, Trans::no, {}, {});
  std::vector<float> values = to_host<float>(host(), h);
  for (float& v : values) v /= float(samples);
  for (std::int64_t i = 0; i < n; ++i) {
    values[std::size_t(i * n + i)] += damping;
    for (std::int64_t j = 0; j < i; ++j) values[std::size_t(i * n + j)] = values[std::size_t(j * n + i)];
  }
  return values;
}

Tensor factor_of(Context& ctx, const std::vector<float>& h, std::int64_t n, DType dtype) {
  const Tensor u = full(ctx, {n, n}, dtype, kNan);
  ctx.kernels->cholesky_of_inverse(ctx, u, from_host<float>(ctx, {n, n}, dtype, h));
  return u;
}

TEST(CudaGptq, CholeskyOfInverse) {
  for (const std::int64_t n : {1, 2, 31, 33, 64, 65, 128, 257, 1100}) {
    SCOPED_TRACE(n);
    const std::vector<float> h = random_hessian(n, std::uint64_t(n), 0.05f);
    const Tensor u = factor_of(gpu(), h, n, DType::f32);
    const auto actual = numbers(gpu(), u);
    expect_close(actual, numbers(host(), factor_of(host(), h, n, DType::f64)), 1e-7, "u");
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < i; ++j) ASSERT_EQ(actual[std::size_t(i * n + j)], 0);
    EXPECT_EQ(bytes_of(gpu(), u), bytes_of(gpu(), factor_of(gpu(), h, n, DType::f32))) << "two runs differ";
  }
}

TEST(CudaGptq, CholeskyNamesThePivot) {
  for (const std::int64_t n : {3, 64, 150})
    for (const std::int64_t column : {std::int64_t(1), n - 1, n / 2, std::int64_t(0)})
      for (const float bad : {0.f, -1.f, kNan, kInf}) {
        std::vector<float> h(std::size_t(n * n), 0.f);
        for (std::int64_t i = 0; i < n; ++i) h[std::size_t(i * n + i)] = i == column ? bad : 1;
        const auto text = [&](Context& ctx) {
          return error_text([&] { factor_of(ctx, h, n, DType::f32); }, ErrorKind::failure);
        };
        EXPECT_NE(text(host()), "no error");
        EXPECT_EQ(text(gpu()), text(host())) << bad << " in column " << column << " of " << n;
      }
}

struct GptqCase {
  std::int64_t out, in, groups;
  int bits;
};

struct GptqInputs {
  std::vector<std::int32_t> order;
  std::vector<float> scale, zero, w;  // w in bf16's values
};

GptqInputs gptq_inputs(const GptqCase& c, float spoil) {
  Rng rng(std::uint64_t(c.out + c.in));
  std::vector<std::int32_t> order(std::size_t(c.in));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[std::size_t(rng.below(i))]);
  std::vector<float> scale(std::size_t(c.out * c.groups)), zero(scale.size());
  for (float& s : scale) s = float(4.0 * (0.5 + rng.uniform()) / double((1 << c.bits) - 1));
  for (float& z : zero) z = float(rng.below(std::uint64_t(1) << c.bits));
  std::vector<float> w = rounded_to(DType::bf16, randn(c.out * c.in, 3));
  w[w.size() / 2] += spoil;
  return {order, scale, zero, w};
}

std::vector<float> gptq(Context& ctx, const GptqCase& c, const GptqInputs& x, const std::vector<float>& u,
                        DType dtype) {
  const Tensor compensated(ctx, {c.out, c.in}, dtype);
  const Tensor scale = from_host<float>(ctx, {c.out, c.groups}, DType::f32, x.scale);
  const Tensor zero = from_host<float>(ctx, {c.out, c.groups}, DType::f32, x.zero);
  ctx.kernels->gptq_weights(ctx, compensated, from_host<float>(ctx, {c.out, c.in}, dtype, x.w), {scale, zero, c.bits},
                            from_host<float>(ctx, {c.in, c.in}, DType::f32, u),
                            from_host<std::int32_t>(ctx, {c.in}, DType::i32, x.order));
  return to_host<float>(ctx, compensated);
}

// What cpu/gptq.cpp does, in the order of the columns, for weights of `dtype`, which the CPU does not have.
std::vector<float> gptq_reference(const GptqCase& c, const GptqInputs& x, const std::vector<float>& u, DType dtype) {
  std::vector<float> compensated(x.w.size());
  const auto at = [](std::int64_t i) { return std::size_t(i); };
  for (std::int64_t r = 0; r < c.out; ++r) {
    std::vector<double> left;
    for (const std::int32_t column : x.order) left.push_back(double(x.w[at(r * c.in + column)]));
    for (std::int64_t j = 0; j < c.in; ++j) {
      const std::int64_t column = x.order[at(j)], g = r * c.groups + column / (c.in / c.groups);
      const float s = x.scale[at(g)], z = x.zero[at(g)], last = float((1 << c.bits) - 1);
      const float exact = float(left[at(j)]), w = dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(exact)) : exact;
      const float v = std::nearbyint(w / s) + z;
      const float q = v > 0 ? std::min(v, last) : 0.f;
      compensated[at(r * c.in + column)] = w;
      const double e = (left[at(j)] - double(s) * double(q - z)) / double(u[at(j * c.in + j)]);
      for (std::int64_t k = j + 1; k < c.in; ++k) left[at(k)] -= e * double(u[at(j * c.in + k)]);
    }
  }
  return compensated;
}

std::vector<bool> nan_places(const std::vector<float>& values) {
  std::vector<bool> places;
  for (const float v : values) places.push_back(std::isnan(v));
  return places;
}

std::vector<double> without_nan(const std::vector<float>& values) {
  std::vector<double> numbers(values.begin(), values.end());
  for (double& v : numbers)
    if (std::isnan(v)) v = 0;
  return numbers;
}

// u is given in f32 to either side, so that both decide on the same numbers. Sums in double differ in their last bits,
// which the rounding to `dtype` shows in few weights and then in their last bit.
TEST(CudaGptq, GptqWeights) {
  const GptqCase cases[] = {{1, 1, 1, 4},    {3, 31, 1, 2},  {5, 33, 3, 3},    {65, 128, 4, 4},   {2, 129, 1, 8},
                            {33, 257, 1, 4}, {7, 384, 3, 4}, {257, 600, 2, 3}, {2100, 130, 1, 4}, {300, 1100, 1, 4}};
  for (const GptqCase& c : cases) {
    SCOPED_TRACE(concat(c.out, " x ", c.in, ", groups ", c.groups, ", bits ", c.bits));
    const auto u =
        to_host<float>(host(), factor_of(host(), random_hessian(c.in, std::uint64_t(c.in), 0.1f), c.in, DType::f32));
    for (const float spoil : {0.f, kNan}) {
      const GptqInputs x = gptq_inputs(c, spoil);
      for (const DType dtype : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(concat(dtype, ", spoilt by ", spoil));
        const double allowed = dtype == DType::f32 ? 1e-6 : 0x1p-7;
        const auto expected = gptq_reference(c, x, u, dtype), actual = gptq(gpu(), c, x, u, dtype);
        expect_close(without_nan(actual), without_nan(expected), allowed, "compensated");
        EXPECT_EQ(nan_places(actual), nan_places(expected));
        if (dtype == DType::f32)
          expect_close(without_nan(gptq(host(), c, x, u, dtype)), without_nan(expected), allowed, "host");
        if (spoil == 0) {
          EXPECT_EQ(gptq(gpu(), c, x, u, dtype), actual) << "two runs differ";
        }
      }
    }
  }
}

}  // namespace
}  // namespace cbq::test
