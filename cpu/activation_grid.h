// One row of activations and the integer grid of its range: what fake_quant and the ops fused with it share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/kernel_args.h"
#include "cpu/parallel.h"

namespace cbq::cpu {

// Least and largest of a row and 0; both NaN where the row holds a NaN or an infinity.
template <class T>
struct RowRange {
  T low, high;
};

template <class T>
RowRange<T> range_of_row(const T* x, std::int64_t count) {
  T low = 0, high = 0, poison = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : poison)
  for (std::int64_t c = 0; c < count; ++c) {
    low = x[c] < low ? x[c] : low;
    high = x[c] > high ? x[c] : high;
    poison += x[c] - x[c];  // 0, or NaN where x is not finite: comparisons alone would pass over a NaN
  }
  return {low + poison, high + poison};
}

template <class T>
struct RowGrid {
  T s, z, last;  // step, zero point, largest code
};

template <class T>
RowGrid<T> grid_of_range(RowRange<T> row, T factor, int bits, Symmetry symmetry) {
  const T last = T((1 << bits) - 1);
  const bool symmetric = symmetry == Symmetry::symmetric;
  const T range = symmetric ? 2 * std::max(-row.low, row.high) : row.high - row.low;
  // The floor makes an all-zero row 0 / s = 0 instead of 0 / 0. Both comparisons are false for NaN.
  const T s = factor * range / last, smallest = std::numeric_limits<T>::min();
  const T z = symmetric ? T(1 << (bits - 1)) : range > 0 ? std::nearbyint(-row.low * last / range) : T(0);
  return {s < smallest ? smallest : s, z, last};
}

// clip(round(x/s) + z, 0, last) - z; NaN stays.
template <class T>
T integer_of(T x, const RowGrid<T>& grid) {
  const T v = std::nearbyint(x / grid.s) + grid.z;
  return (v < 0 ? T(0) : v > grid.last ? grid.last : v) - grid.z;
}

// Where the integers of rows go with their steps; nowhere if they are not wanted.
template <class T>
struct IntegersOut {
  Rows<std::uint8_t> integers;  // f8
  T* step;

  explicit IntegersOut(const IntegerRows& to) : integers(rows<std::uint8_t>(to.integers)), step(elements<T>(to.step)) {}
};

// y = s (q - z) of row r, and its integers; y may be x.
template <class T>
void quantise_row(T* y, const IntegersOut<T>& out, std::int64_t r, const T* x, std::int64_t count,
                  const RowGrid<T>& grid) {
  if (out.integers.data) {
    out.step[r] = grid.s;
    for (std::int64_t c = 0; c < count; ++c) out.integers(r, c) = f32_to_f8(float(integer_of(x[c], grid)));
  }
#pragma omp simd
  for (std::int64_t c = 0; c < count; ++c) y[c] = grid.s * integer_of(x[c], grid);
}

// dx = m dy, where wanted, and the row's part of dfactor: (s/factor) sum_c dy (q - z - m x/s).
template <class T>
double quantise_row_backward(T* dx, const T* dy, const T* x, std::int64_t count, const RowGrid<T>& grid, T factor) {
  const auto [s, z, last] = grid;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < count; ++c) {
    const T ratio = x[c] / s, v = std::nearbyint(ratio) + z, q = v < 0 ? T(0) : v > last ? last : v;
    sum += double(dy[c]) * double(q - z - (q == v ? ratio : T(0)));
  }
  if (dx) {
#pragma omp simd
    for (std::int64_t c = 0; c < count; ++c) {
      const T v = std::nearbyint(x[c] / s) + z;
      dx[c] = v >= 0 && v <= last ? dy[c] : T(0);
    }
  }
  return sum * double(s) / double(factor);
}

// The ops fused with a quantiser, for each row of y (R,C): make(h, r) writes the row that is quantised, whose range is
// kept in `range` (R,2).
template <class T, class Make>
void quantise_rows(View y, const IntegerRows& integers, View range, const ActivationQuantiser& quantiser,
                   const Make& make) {
  const Rows<T> to = rows<T>(y), ranges = rows<T>(range);
  const IntegersOut<T> out(integers);
  const T factor = *elements<const T>(quantiser.factor);
  parallel_for(to.rows, to.rows * to.cols, [&](std::int64_t r) {
    make(to.row(r), r);
    const RowRange<T> of_row = range_of_row(to.row(r), to.cols);
    ranges(r, 0) = of_row.low, ranges(r, 1) = of_row.high;
    quantise_row(to.row(r), out, r, to.row(r), to.cols,
                 grid_of_range(of_row, factor, quantiser.bits, quantiser.symmetry));
  });
}

// Their backward: make as before, pass(dh, r) gets the gradient of what it wrote.
template <class T, class Make, class Pass>
void quantise_rows_backward(View dfactor, View dy, View range, const ActivationQuantiser& quantiser, const Make& make,
                            const Pass& pass) {
  const Rows<const T> grad = rows<const T>(dy), ranges = rows<const T>(range);
  const T factor = *elements<const T>(quantiser.factor);
  std::vector<double> of_row(std::size_t(grad.rows));
  parallel_for(grad.rows, grad.rows * grad.cols, [&](std::int64_t r) {
    std::vector<T> h(std::size_t(grad.cols)), dh(h.size());
    make(h.data(), r);
    const RowGrid<T> grid = grid_of_range<T>({ranges(r, 0), ranges(r, 1)}, factor, quantiser.bits, quantiser.symmetry);
    of_row[std::size_t(r)] = quantise_row_backward(dh.data(), grad.row(r), h.data(), grad.cols, grid, factor);
    pass(dh.data(), r);
  });
  if (dfactor) *elements<T>(dfactor) = T(std::accumulate(of_row.begin(), of_row.end(), 0.0));
}

}  // namespace cbq::cpu
