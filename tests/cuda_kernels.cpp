// The CUDA kernels that no differentiable op reaches, against the CPU: bits where the result is exact, else f64.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/check.h"
#include "tests/error_text.h"
#include "tests/gpu.h"
#include "tests/pack_cases.h"

namespace cbq::test {
namespace {

const float kNan = std::nanf(""), kInf = std::numeric_limits<float>::infinity();

struct Size {
  std::int64_t rows, cols, gap;
};
// Around the packs of 16 bytes and the warp, with rows that lie apart, and more rows than one block of a reduction
// takes.
const Size kSizes[] = {{1, 1, 0},   {3, 31, 1},   {31, 33, 0},   {5, 257, 3},    {33, 64, 8},
                       {257, 1, 2}, {300, 65, 0}, {130, 264, 8}, {1000, 2048, 0}};

std::string print(const Size& s, DType dtype) {
  return concat("(", s.rows, ", ", s.cols, ") with gap ", s.gap, ", ", dtype);
}

// The numbers that `dtype` holds in place of these.
std::vector<float> rounded_to(DType dtype, const std::vector<float>& values) {
  return to_host<float>(host(), from_host<float>(host(), {std::int64_t(values.size())}, dtype, values));
}

// A matrix of numbers exact in `dtype` whose rows lie `gap` elements apart; the gaps hold NaN.
struct Numbers {
  Size size;
  std::vector<float> values;

  Numbers(const Size& s, DType dtype, std::uint64_t seed)
      : size(s), values(rounded_to(dtype, randn(s.rows * s.cols, seed))) {}
  Tensor on(Context& ctx, DType dtype) const {
    const std::int64_t stride = size.cols + size.gap;
    std::vector<float> wide(std::size_t(size.rows * stride), kNan);
    for (std::int64_t r = 0; r < size.rows; ++r)
      std::copy_n(values.begin() + r * size.cols, size.cols, wide.begin() + r * stride);
    return from_host<float>(ctx, {size.rows, stride}, dtype, wide).slice(1, 0, size.cols);
  }
};

// An output with NaN in every place and in the gaps.
Tensor unwritten(Context& ctx, const Size& s, DType dtype) {
  return full(ctx, {s.rows, s.cols + s.gap}, dtype, kNan).slice(1, 0, s.cols);
}

// Equal numbers, NaN equal to NaN.
void expect_same(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_TRUE(actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i])))
        << what << ": " << actual[i] << " at " << i << ", expected " << expected[i];
}

// In double, by way of f32 on the GPU.
Values numbers(Context& ctx, const Tensor& x) {
  if (x.dtype() == DType::f64) return to_host<double>(ctx, x);
  const std::vector<float> values = to_host<float>(ctx, x);
  return {values.begin(), values.end()};
}

std::vector<std::byte> bytes_of(Context& ctx, const Tensor& x) {
  std::vector<std::byte> bytes(std::size_t(x.bytes()));
  to_host_bytes(ctx, bytes, x);
  return bytes;
}

// fn(size, dtype) for every size and the two types of the backend.
template <class Fn>
void for_each_case(const Fn& fn) {
  for (const Size& size : kSizes)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(print(size, dtype));
      fn(size, dtype);
    }
}

TEST(CudaPacking, IsThatOfBitpackAndBack) {
  for (const PackCase& c : pack_cases()) check_packing(gpu(), c);
}

TEST(CudaKernels, Clamp) {
  for_each_case([](const Size& size, DType dtype) {
    Numbers x(size, dtype, 1);
    x.values.back() = kNan;
    const auto run = [&](Context& ctx, DType type) {
      const Tensor y = unwritten(ctx, size, type);
      ctx.kernels->clamp(ctx, y, x.on(ctx, type), -0.25, 0.5);
      return to_host<float>(ctx, y);
    };
    expect_same(run(gpu(), dtype), run(host(), DType::f32), "clamp");
    const Tensor in_place = x.on(gpu(), dtype);
    gpu().kernels->clamp(gpu(), in_place, in_place, -0.25, 0.5);
    expect_same(to_host<float>(gpu(), in_place), run(host(), DType::f32), "clamp in place");
  });
}

TEST(CudaKernels, ScaleRowsAndColumns) {
  for_each_case([](const Size& size, DType dtype) {
    const Numbers x(size, dtype, 1), by_row({size.rows, 1, 0}, dtype, 2), by_column({1, size.cols, 0}, dtype, 3);
    const auto run = [&](Context& ctx, DType type, DType factors) {
      const Tensor y = unwritten(ctx, size, type), z = unwritten(ctx, size, type);
      const Tensor in = x.on(ctx, type);
      ctx.kernels->scale_rows(ctx, y, in, by_row.on(ctx, factors).reshape({size.rows}));
      ctx.kernels->scale_columns(ctx, z, in, by_column.on(ctx, factors).reshape({size.cols}));
      return std::array{numbers(ctx, y), numbers(ctx, z)};
    };
    const auto expected = run(host(), DType::f64, DType::f64);
    for (const DType factors : {dtype, DType::f32}) {
      const auto actual = run(gpu(), dtype, factors);
      expect_close(actual[0], expected[0], tolerance(dtype), "scale_rows");
      expect_close(actual[1], expected[1], tolerance(dtype), "scale_columns");
    }
  });
}

TEST(CudaKernels, ColumnRange) {
  for_each_case([](const Size& size, DType dtype) {
    Numbers x(size, dtype, 1);
    for (std::size_t i = 0; i < x.values.size(); i += 7) x.values[i] = kNan;
    for (std::int64_t r = 0; r < size.rows; ++r) x.values[std::size_t(r * size.cols + size.cols / 2)] = kNan;
    x.values.back() = -kInf;
    const auto run = [&](Context& ctx, DType type) {
      const Tensor low(ctx, {size.cols}, type), high(ctx, {size.cols}, type), in = x.on(ctx, type);
      ctx.kernels->column_range(ctx, low, {}, in);
      ctx.kernels->column_range(ctx, {}, high, in);
      return std::array{to_host<float>(ctx, low), to_host<float>(ctx, high)};
    };
    const auto actual = run(gpu(), dtype), expected = run(host(), DType::f32);
    expect_same(actual[0], expected[0], "low");
    expect_same(actual[1], expected[1], "high");
  });
  const Tensor low(gpu(), {3}, DType::f32), high(gpu(), {3}, DType::f32);
  gpu().kernels->column_range(gpu(), low, high, Tensor(gpu(), {0, 3}, DType::f32));
  expect_same(to_host<float>(gpu(), low), std::vector<float>(3, kInf), "low of no rows");
  expect_same(to_host<float>(gpu(), high), std::vector<float>(3, -kInf), "high of no rows");
}

std::vector<std::int32_t> argmax_of(Context& ctx, const Tensor& x) {
  const Tensor index(ctx, {x.rows()}, DType::i32);
  ctx.kernels->argmax_rows(ctx, index, x);
  return to_host<std::int32_t>(ctx, index);
}

TEST(CudaKernels, ArgmaxRows) {
  for_each_case([](const Size& size, DType dtype) {
    Numbers x(size, dtype, 1);
    for (float& v : x.values) v = std::round(2 * v);  // many equals
    for (std::size_t i = 0; i < x.values.size(); i += 5) x.values[i] = kNan;
    EXPECT_EQ(argmax_of(gpu(), x.on(gpu(), dtype)), argmax_of(host(), x.on(host(), DType::f32)));
  });
  const std::vector<float> edges = {1,     3,     3,     2,     kNan, 1, kInf, kInf,  kNan, kNan, kNan,  kNan,
                                    -kInf, -kInf, -kInf, -kInf, kNan, 0, -0.f, -kInf, kNan, kNan, -kInf, -kInf};
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t cols : {4, 8, 24}) {
      const Shape shape = {24 / cols, cols};
      EXPECT_EQ(argmax_of(gpu(), from_host<float>(gpu(), shape, dtype, edges)),
                argmax_of(host(), from_host<float>(host(), shape, DType::f32, edges)))
          << shape << " " << dtype;
    }
}

TEST(CudaKernels, SortMagnitudes) {
  for_each_case([](const Size& size, DType dtype) {
    Numbers x(size, dtype, 1);
    x.values[x.values.size() / 2] = -0.f;
    x.values.back() = -kNan;
    x.values.front() = -kInf;
    const auto run = [&](Context& ctx, DType type) {
      const Tensor y(ctx, {size.rows * size.cols}, type);
      ctx.kernels->sort_magnitudes(ctx, y, x.on(ctx, type));
      return to_host<float>(ctx, y);
    };
    expect_same(run(gpu(), dtype), run(host(), DType::f32), "sort_magnitudes");
  });
}

TEST(CudaKernels, CountNonFinite) {
  for_each_case([](const Size& size, DType dtype) {
    Numbers x(size, dtype, 1);
    for (std::size_t i = 0; i < x.values.size(); i += 3) x.values[i] = i % 2 ? kNan : i % 4 ? -kInf : kInf;
    const Tensor count(gpu(), {1}, DType::i32);
    gpu().kernels->count_non_finite(gpu(), count, x.on(gpu(), dtype));
    EXPECT_EQ(to_host<std::int32_t>(gpu(), count)[0], std::int32_t((x.values.size() + 2) / 3));
  });
}

// Three steps, and the last value, m and v.
std::array<Values, 3> adamw(Context& ctx, DType dtype, std::int64_t n, std::int64_t offset) {
  const auto start = [&](std::uint64_t seed, double deviation) {
    return convert(ctx, from_host<float>(ctx, {n + offset}, DType::f32, randn(n + offset, seed, deviation)), dtype)
        .slice(0, offset, n + offset);
  };
  const Tensor value = start(1, 1), m = copy(ctx, start(2, 0.1)), v = full(ctx, {n}, dtype, 0.01);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const Tensor grad = start(std::uint64_t(10 + step), 1);
    const std::vector<AdamTensor> update = {{value, m, v, grad, {1e-2, 0.9, 0.95, 1e-8, 0.1, step}}};
    ctx.kernels->adamw_step(ctx, update);
  }
  return {numbers(ctx, value), numbers(ctx, m), numbers(ctx, v)};
}

TEST(CudaKernels, AdamWStep) {
  for (const std::int64_t n : {1, 31, 33, 256, 257, 100000})
    for (const std::int64_t offset : {0, 1}) {  // 1: no 16-byte packs
      const auto actual = adamw(gpu(), DType::f32, n, offset), expected = adamw(host(), DType::f64, n, offset);
      for (std::size_t i = 0; i < 3; ++i)
        expect_close(actual[i], expected[i], tolerance(DType::f32), concat("output ", i, ", n ", n, " + ", offset));
    }
  const Tensor x = full(gpu(), {3}, DType::f32, 1);
  const std::vector<AdamTensor> before_the_first = {{x, x, x, x, {1e-2, 0.9, 0.95, 1e-8, 0.1, 0}}};
  EXPECT_THROW(gpu().kernels->adamw_step(gpu(), before_the_first), Error);
}

TEST(CudaKernels, SignSgdStep) {
  for (const std::int64_t n : {1, 31, 33, 256, 257, 100000}) {
    std::vector<float> gradient = randn(n, 2);
    for (std::size_t i = 0; i < gradient.size(); i += 3) gradient[i] = i % 2 ? 0.f : -0.f;
    if (n > 1) gradient[1] = kNan;
    const auto run = [&](Context& ctx) {
      const Tensor value = from_host<float>(ctx, {n}, DType::f32, randn(n, 1)),
                   grad = from_host<float>(ctx, {n}, DType::f32, gradient);
      const std::vector<SignTensor> update = {{value, grad, 0.125}};
      ctx.kernels->sign_sgd_step(ctx, update);
      return to_host<float>(ctx, value);
    };
    expect_same(run(gpu()), run(host()), concat("n ", n));
  }
}

// More tensors than a launch takes, small, large, misaligned and empty: the bits of one call a tensor.
TEST(CudaKernels, ManyTensorsInOneStep) {
  Context& ctx = gpu();
  struct Learned {
    Tensor value, m, v, grad;
  };
  const auto make = [&] {
    std::vector<Learned> all;
    for (const std::int64_t n : {1, 0, 31, 1024, 100000, 257})
      for (std::int64_t i = 0; i < 25; ++i) {
        const auto values = [&](std::uint64_t seed) {
          const std::int64_t offset = i % 2;
          return from_host<float>(ctx, {n + offset}, DType::f32, randn(n + offset, seed + std::uint64_t(i)))
              .slice(0, offset, n + offset);
        };
        all.push_back({values(100), values(200), full(ctx, {n}, DType::f32, 0.01), values(300)});
      }
    return all;
  };
  const auto numbers_of = [&](const std::vector<Learned>& all) {
    std::vector<std::vector<std::byte>> bytes;
    for (const Learned& l : all)
      for (const Tensor& x : {l.value, l.m, l.v}) bytes.push_back(bytes_of(ctx, copy(ctx, x)));
    return bytes;
  };
  const auto adam = [](const Learned& l, std::size_t i) {
    return AdamTensor{l.value, l.m, l.v, l.grad, {1e-2, 0.9, 0.95, 1e-8, 0.1, std::int64_t(i % 3 + 1)}, -1, 0.5};
  };
  const auto sign = [](const Learned& l, std::size_t i) {
    return SignTensor{l.value, l.grad, 0.125 * double(i % 5), -0.75, 1};
  };
  const std::vector<Learned> together = make(), alone = make();
  std::vector<AdamTensor> adamw;
  std::vector<SignTensor> signs;
  for (std::size_t i = 0; i < together.size(); ++i) {
    adamw.push_back(adam(together[i], i));
    signs.push_back(sign(together[i], i));
    const std::vector<AdamTensor> one_adamw = {adam(alone[i], i)};
    ctx.kernels->adamw_step(ctx, one_adamw);
  }
  ctx.kernels->adamw_step(ctx, adamw);
  EXPECT_EQ(numbers_of(together), numbers_of(alone));
  for (std::size_t i = 0; i < alone.size(); ++i) {
    const std::vector<SignTensor> one_sign = {sign(alone[i], i)};
    ctx.kernels->sign_sgd_step(ctx, one_sign);
  }
  ctx.kernels->sign_sgd_step(ctx, signs);
  EXPECT_EQ(numbers_of(together), numbers_of(alone));
}

// x^T x / samples + damping with correlated neighbours, (n,n), of floats.
std::vector<float> random_hessian(std::int64_t n, std::uint64_t seed, float damping) {
  const std::int64_t samples = n + 8;
  Tensor x = from_host<float>(host(), {samples, n}, DType::f32, randn(samples * n, seed));
  const Tensor mix = full(host(), {n, n}, DType::f32, 0), mixed(host(), {samples, n}, DType::f32),
               h(host(), {n, n}, DType::f32);
  float* m = static_cast<float*>(mix.data());
  for (std::int64_t i = 0; i < n; ++i) m[i * n + i] = m[i * n + (i + 1) % n] = 1;
  host().kernels->matmul(host(), mixed, x, Trans::no, mix, Trans::no, {}, Write::set);
  host().kernels->matmul(host(), h, mixed, Trans::yes, mixed, Trans::no, {}, Write::set);
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

TEST(CudaKernels, CholeskyOfInverse) {
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

TEST(CudaKernels, CholeskyNamesThePivot) {
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
TEST(CudaKernels, GptqWeights) {
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

TEST(CudaKernels, NothingToDo) {
  Context& ctx = gpu();
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Shape& shape : {Shape{0, 5}, Shape{5, 0}}) {
      const Tensor x(ctx, shape, dtype), none(ctx, {0}, dtype), count(ctx, {1}, DType::i32);
      ctx.kernels->clamp(ctx, x, x, 0, 1);
      ctx.kernels->scale_rows(ctx, x, x, full(ctx, {shape[0]}, dtype, 1));
      ctx.kernels->scale_columns(ctx, x, x, full(ctx, {shape[1]}, dtype, 1));
      ctx.kernels->sort_magnitudes(ctx, none, x);
      ctx.kernels->count_non_finite(ctx, count, x);
      EXPECT_EQ(to_host<std::int32_t>(ctx, count)[0], 0);
    }
  const Tensor empty(ctx, {0}, DType::f32);
  const std::vector<AdamTensor> adamw = {{empty, empty, empty, empty, {1e-2, 0.9, 0.95, 1e-8, 0.1, 1}}};
  ctx.kernels->adamw_step(ctx, adamw);
  const std::vector<SignTensor> sign_sgd = {{empty, empty, 0.1}};
  ctx.kernels->sign_sgd_step(ctx, sign_sgd);
  ctx.kernels->adamw_step(ctx, {});
  ctx.kernels->sign_sgd_step(ctx, {});
}

}  // namespace
}  // namespace cbq::test
