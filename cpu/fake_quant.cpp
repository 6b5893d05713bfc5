// Activations on the integer grid of their own row, one learned factor on all ranges.
//
//   y = s (q - z),  q = clip(round(x/s) + z, 0, N),  N = 2^bits - 1, round: ties to even
//   symmetric:  s = factor max_c|x| / (N/2),                              z = 2^(bits-1)
//   asymmetric: s = factor (hi - lo) / N, lo = min(0, min_c x), hi = max(0, max_c x), z = round(-lo N / (hi - lo))
//
// Backward, straight through the round, with the row's range and z held constant (LSQ, 1902.08153, eq. 3); m = 1 where
// not clipped, else 0:
//   dx = m dy,  dfactor = sum_rc dy (s/factor) (q - z - m x/s)
// A row that holds a NaN or an infinity is NaN throughout.
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

template <class T>
struct RowGrid {
  T s, z, last;  // step, zero point, largest code
};

template <class T>
RowGrid<T> grid_of_row(const T* x, std::int64_t count, T factor, int bits, Symmetry symmetry) {
  T low = 0, high = 0, poison = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : poison)
  for (std::int64_t c = 0; c < count; ++c) {
    low = x[c] < low ? x[c] : low;
    high = x[c] > high ? x[c] : high;
    poison += x[c] - x[c];  // 0, or NaN where x is not finite: comparisons alone would pass over a NaN
  }
  const T last = T((1 << bits) - 1);
  const bool symmetric = symmetry == Symmetry::symmetric;
  const T range = (symmetric ? 2 * std::max(-low, high) : high - low) + poison;
  // The floor makes an all-zero row 0 / s = 0 instead of 0 / 0. Both comparisons are false for NaN.
  const T s = factor * range / last, smallest = std::numeric_limits<T>::min();
  const T z = symmetric ? T(1 << (bits - 1)) : range > 0 ? std::nearbyint(-low * last / range) : T(0);
  return {s < smallest ? smallest : s, z, last};
}

template <class T>
void forward(Rows<T> y, Rows<const T> x, T factor, int bits, Symmetry symmetry) {
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const auto [s, z, last] = grid_of_row(x.row(r), x.cols, factor, bits, symmetry);
#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const T v = std::nearbyint(x(r, c) / s) + z;
      y(r, c) = s * ((v < 0 ? T(0) : v > last ? last : v) - z);  // NaN stays
    }
  });
}

// An unwanted dx has no data.
template <class T>
double backward(Rows<T> dx, Rows<const T> dy, Rows<const T> x, T factor, int bits, Symmetry symmetry) {
  std::vector<double> of_row(std::size_t(x.rows));
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const auto [s, z, last] = grid_of_row(x.row(r), x.cols, factor, bits, symmetry);
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const T ratio = x(r, c) / s, v = std::nearbyint(ratio) + z, q = v < 0 ? T(0) : v > last ? last : v;
      sum += double(dy(r, c)) * double(q - z - (q == v ? ratio : T(0)));
    }
    of_row[std::size_t(r)] = sum * double(s) / double(factor);
    if (!dx.data) return;
#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const T v = std::nearbyint(x(r, c) / s) + z;
      dx(r, c) = v >= 0 && v <= last ? dy(r, c) : T(0);
    }
  });
  return std::accumulate(of_row.begin(), of_row.end(), 0.0);
}

}  // namespace

void fake_quant_forward(Context&, View y, View x, View factor, int bits, Symmetry symmetry) {
  dispatch_float(x.dtype, "fake_quant_forward",
                 [&]<class T>() { forward(rows<T>(y), rows<const T>(x), *elements<const T>(factor), bits, symmetry); });
}

void fake_quant_backward(Context&, View dx, View dfactor, View dy, View x, View factor, int bits, Symmetry symmetry) {
  dispatch_float(x.dtype, "fake_quant_backward", [&]<class T>() {
    const double sum =
        backward(rows<T>(dx), rows<const T>(dy), rows<const T>(x), *elements<const T>(factor), bits, symmetry);
    if (dfactor) *elements<T>(dfactor) = T(sum);
  });
}

}  // namespace cbq::cpu
