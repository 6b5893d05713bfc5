// The CUDA kernels that no differentiable op reaches, against the CPU: bits where the result is exact, else f64.
#include <algorithm>
#include <cmath>

#include "tests/cuda_numbers.h"
#include "tests/pack_cases.h"

namespace cbq::test {
namespace {

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
}

}  // namespace
}  // namespace cbq::test
