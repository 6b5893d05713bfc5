// Threads over rows, types by dtype: what every CPU kernel starts with.
//
// Results never depend on the number of threads: every output element, and every partial sum, is computed by one thread
// from a range that the shapes alone decide.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/view.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {

// Elements below which starting threads costs more than it saves.
constexpr std::int64_t kSerialWork = 1 << 14;
// Columns of one row that make one piece of work.
constexpr std::int64_t kColumnsPerPiece = 4096;
// Columns summed over rows together: their double accumulators stay in registers and the first cache level.
constexpr std::int64_t kSumColumns = 32;

// fn(i) for i in [0, n), in static chunks. Each i is computed by one thread, so results do not depend on their number.
// `work` is the number of elements that all calls touch together.
template <class Fn>
void parallel_for(std::int64_t n, std::int64_t work, const Fn& fn) {
#pragma omp parallel for schedule(static) if (n > 1 && work >= kSerialWork)
  for (std::int64_t i = 0; i < n; ++i) fn(i);
}

inline int max_threads() {
  return omp_get_max_threads();
}

// fn(r, begin, end) for pieces [begin, end) of the columns of every row r.
template <class Fn>
void for_pieces(std::int64_t row_count, std::int64_t col_count, const Fn& fn) {
  const std::int64_t pieces = (col_count + kColumnsPerPiece - 1) / kColumnsPerPiece;
  parallel_for(row_count * pieces, row_count * col_count, [&](std::int64_t i) {
    const std::int64_t r = i / pieces, begin = i % pieces * kColumnsPerPiece;
    fn(r, begin, std::min(col_count, begin + kColumnsPerPiece));
  });
}

// y_rc = f(x_rc, ...) for matrices of one shape; y may be an x.
template <class T, class F, class... In>
void map(Rows<T> y, const F& f, Rows<In>... x) {
  const bool one_row =
      y.stride == y.cols && ((x.stride == x.cols) && ...);  // then short rows cost no loop of their own
  const std::int64_t row_count = one_row ? 1 : y.rows, col_count = one_row ? y.rows * y.cols : y.cols;
  for_pieces(row_count, col_count, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
#pragma omp simd
    for (std::int64_t c = begin; c < end; ++c) y(r, c) = f(x(r, c)...);
  });
}

// sum_rc term(r, c) in double: per piece, then over the pieces in order.
template <class Term>
double sum_elements(std::int64_t row_count, std::int64_t col_count, const Term& term) {
  const std::int64_t pieces = (col_count + kColumnsPerPiece - 1) / kColumnsPerPiece;
  std::vector<double> partial(std::size_t(row_count * pieces));
  for_pieces(row_count, col_count, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
    partial[std::size_t(r * pieces + begin / kColumnsPerPiece)] =
        sum_over(end - begin, [&](std::int64_t c) { return term(r, begin + c); });
  });
  double total = 0;
  for (double sum : partial) total += sum;
  return total;
}

// y_c = sum_r term(r, c) in double, rows in order; threads over columns. A null y is not wanted.
template <class T, class Term>
void sum_rows(T* y, std::int64_t row_count, std::int64_t col_count, const Term& term) {
  if (!y) return;
  parallel_for((col_count + kSumColumns - 1) / kSumColumns, row_count * col_count, [&](std::int64_t block) {
    const std::int64_t begin = block * kSumColumns, width = std::min(kSumColumns, col_count - begin);
    double sum[kSumColumns] = {};
    for (std::int64_t r = 0; r < row_count; ++r) {
#pragma omp simd
      for (std::int64_t c = 0; c < width; ++c) sum[c] += term(r, begin + c);
    }
    for (std::int64_t c = 0; c < width; ++c) y[begin + c] = T(sum[c]);
  });
}

// Calls fn.template operator()<float>() or <double>(): the two types this backend computes in.
template <class Fn>
void dispatch_float(DType dtype, const char* kernel, const Fn& fn) {
  switch (dtype) {
    case DType::f32: return fn.template operator()<float>();
    case DType::f64: return fn.template operator()<double>();
    default: fail(ErrorKind::failure, kernel, ": the CPU backend computes in f32 or f64, got ", dtype);
  }
}

}  // namespace cbq::cpu
