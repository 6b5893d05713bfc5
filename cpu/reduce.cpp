// Sums, ranges, order statistics and counts over a matrix.
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

// Least significant digit radix sort, 8 bits at a time: magnitudes order like their bit patterns, and NaN comes last.
template <class Bits>
void sort_bits(std::vector<Bits>& keys) {
  std::vector<Bits> sorted(keys.size());
  for (unsigned shift = 0; shift < 8 * sizeof(Bits); shift += 8) {
    std::array<std::size_t, 257> start{};  // of each digit in the sorted keys
    for (Bits key : keys) ++start[((key >> shift) & 255u) + 1];
    for (std::size_t digit = 0; digit < 256; ++digit) start[digit + 1] += start[digit];
    for (Bits key : keys) sorted[start[(key >> shift) & 255u]++] = key;
    keys.swap(sorted);
  }
}

}  // namespace

void column_sum(Context&, View y, View x) {
  dispatch_float(x.dtype, "column_sum", [&]<class T>() {
    const Rows<const T> from = rows<const T>(x);
    sum_rows(elements<T>(y), from.rows, from.cols, [&](std::int64_t r, std::int64_t c) { return double(from(r, c)); });
  });
}

// NaN never becomes a minimum or maximum; no rows at all give the range (inf, -inf).
void column_range(Context&, View low, View high, View x) {
  dispatch_float(x.dtype, "column_range", [&]<class T>() {
    const Rows<const T> from = rows<const T>(x);
    T *lowest = elements<T>(low), *highest = elements<T>(high);
    parallel_for((from.cols + kSumColumns - 1) / kSumColumns, from.rows * from.cols, [&](std::int64_t block) {
      const std::int64_t begin = block * kSumColumns, width = std::min(kSumColumns, from.cols - begin);
      T smallest[kSumColumns], largest[kSumColumns];
      std::fill_n(smallest, kSumColumns, std::numeric_limits<T>::infinity());
      std::fill_n(largest, kSumColumns, -std::numeric_limits<T>::infinity());
      for (std::int64_t r = 0; r < from.rows; ++r) {
        const T* value = from.row(r) + begin;
#pragma omp simd
        for (std::int64_t c = 0; c < width; ++c) {
          smallest[c] = value[c] < smallest[c] ? value[c] : smallest[c];
          largest[c] = value[c] > largest[c] ? value[c] : largest[c];
        }
      }
      if (lowest) std::copy_n(smallest, width, lowest + begin);
      if (highest) std::copy_n(largest, width, highest + begin);
    });
  });
}

void mean_forward(Context&, View y, View x) {
  dispatch_float(x.dtype, "mean_forward", [&]<class T>() {
    const Rows<const T> from = rows<const T>(x);
    const double sum =
        sum_elements(from.rows, from.cols, [&](std::int64_t r, std::int64_t c) { return double(from(r, c)); });
    *elements<T>(y) = T(sum / double(x.count()));
  });
}

void mean_backward(Context&, View dx, View dy) {
  dispatch_float(dx.dtype, "mean_backward", [&]<class T>() {
    const T share = T(double(*elements<const T>(dy)) / double(dx.count()));
    map(rows<T>(dx), [share] { return share; });
  });
}

// NaN is never the largest; a row of nothing else, or of -inf, gives 0.
void argmax_rows(Context&, View index, View x) {
  dispatch_float(x.dtype, "argmax_rows", [&]<class T>() {
    const Rows<const T> from = rows<const T>(x);
    std::int32_t* best = elements<std::int32_t>(index);
    parallel_for(from.rows, from.rows * from.cols, [&](std::int64_t r) {
      const T* value = from.row(r);
      const T* first = std::find(value, value + from.cols, max_over(from.cols, value));
      best[r] = first == value + from.cols ? 0 : std::int32_t(first - value);
    });
  });
}

void sort_magnitudes(Context&, View y, View x) {
  dispatch_float(x.dtype, "sort_magnitudes", [&]<class T>() {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const Rows<const T> from = rows<const T>(x);
    std::vector<Bits> keys(std::size_t(x.count()));
    for_pieces(from.rows, from.cols, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c)
        keys[std::size_t(r * from.cols + c)] = std::bit_cast<Bits>(std::abs(from(r, c)));
    });
    sort_bits(keys);
    T* to = elements<T>(y);
    for (std::size_t i = 0; i < keys.size(); ++i) to[i] = std::bit_cast<T>(keys[i]);
  });
}

void count_different(Context&, View count, View a, View b) {
  const Rows<const std::uint8_t> x = rows<const std::uint8_t>(a), y = rows<const std::uint8_t>(b);
  const double found =
      sum_elements(x.rows, x.cols, [&](std::int64_t r, std::int64_t c) { return x(r, c) == y(r, c) ? 0.0 : 1.0; });
  *elements<std::int32_t>(count) = std::int32_t(std::min(found, double(std::numeric_limits<std::int32_t>::max())));
}

void count_non_finite(Context&, View count, View x) {
  dispatch_float(x.dtype, "count_non_finite", [&]<class T>() {
    const Rows<const T> from = rows<const T>(x);
    const double found = sum_elements(from.rows, from.cols, [&](std::int64_t r, std::int64_t c) {
      return std::abs(from(r, c)) <= std::numeric_limits<T>::max() ? 0.0 : 1.0;  // false for NaN
    });
    *elements<std::int32_t>(count) = std::int32_t(std::min(found, double(std::numeric_limits<std::int32_t>::max())));
  });
}

}  // namespace cbq::cpu
