// y = op(a) op(b) + bias + addend through OpenBLAS, and y = (step_a a) (step_b b)^T + bias + addend of integers: the
// kernels of this backend that are not plain loops. The library divides a product by the number of threads: with
// another number the last bits may differ, with the same they do not.
#include <optional>

#include "core/tensor.h"
#include "cpu/backend.h"
#include "cpu/gemm.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

// Multiplications M N K up to which one thread is as fast as two (measured on two AVX-512 cores: 0.04 ms either way).
constexpr std::int64_t kSerialProduct = 1 << 21;

template <class T>
Operand<T> operand(Rows<const T> x, Trans trans) {
  return {x.data, std::max({x.stride, x.cols, std::int64_t(1)}), trans};  // BLAS wants a stride even without rows
}

// What the product is added to: y_rc = bias_c + addend_rc; without data they count as zero.
template <class T>
void write_start(Rows<T> y, const T* bias, Rows<const T> addend) {
  for_pieces(y.rows, y.cols, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t c = begin; c < end; ++c) y(r, c) = (addend.data ? addend(r, c) : T(0)) + (bias ? bias[c] : T(0));
  });
}

}  // namespace

void matmul(Context&, View y, View a, Trans trans_a, View b, Trans trans_b, View bias, View addend) {
  dispatch_float(y.dtype, "matmul", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    if (to.rows == 0 || to.cols == 0) return;
    const std::int64_t inner = trans_a == Trans::yes ? a.rows() : a.cols();
    const Operand<T> left = operand(rows<const T>(a), trans_a), right = operand(rows<const T>(b), trans_b);
    const std::int64_t stride = std::max(to.stride, to.cols);
    require(std::max({to.rows, to.cols, inner, left.stride, right.stride, stride}) <= blas_limit(),
            "matmul: sizes up to ", blas_limit(), " are supported, got ", a.shape, " x ", b.shape);

    std::optional<SerialBlas> serial;
    if (to.rows * to.cols <= kSerialProduct / std::max<std::int64_t>(1, inner)) serial.emplace();
    const bool one_row = to.rows == 1 && inner > 0, is_in_place = addend.data == y.data && !bias;
    if (bias || (addend && !is_in_place) || (one_row && !addend))
      write_start(to, elements<const T>(bias), rows<const T>(addend));
    if (one_row) {
      return gemv(to.cols, inner, left.data, trans_a == Trans::yes ? left.stride : 1, right, to.data);
    }
    gemm(to.rows, to.cols, inner, T(1), left, right, T(bias || addend ? 1 : 0), to.data, stride);
  });
}

// The product of the integers is exact as long as its sums fit the mantissa.
void matmul_integers(Context& ctx, View y, const IntegerRows& a, const IntegerRows& b, View bias, View addend) {
  const Tensor left(ctx, {a.integers.rows(), a.integers.cols()}, y.dtype),
      right(ctx, {b.integers.rows(), b.integers.cols()}, y.dtype), sums(ctx, {y.rows(), y.cols()}, y.dtype);
  convert(ctx, left, a.integers);
  convert(ctx, right, b.integers);
  matmul(ctx, sums, left, Trans::no, right, Trans::yes, {}, {});
  dispatch_float(y.dtype, "matmul_integers", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> sum = rows<const T>(sums), plus = rows<const T>(addend);
    const T *step_a = elements<const T>(a.step), *step_b = elements<const T>(b.step), *shift = elements<const T>(bias);
    for_pieces(to.rows, to.cols, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c)
        to(r, c) = step_a[r] * step_b[c] * sum(r, c) + (shift ? shift[c] : T(0)) + (plus.data ? plus(r, c) : T(0));
    });
  });
}

}  // namespace cbq::cpu
