// Where a weight's grid starts, and the learned clips on it.
//
// Start: of the ratios in [min_ratio, 1], evenly spaced, the one whose grid on ratio * (lo, hi) rounds a group with the
// least sum (w - w_hat)^2; N = 2^bits - 1:
//   symmetric:  s = ratio max|w| / (N/2), z = 2^(bits-1)
//   asymmetric: s = ratio (hi - lo) / N, lo = min(0, min w), hi = max(0, max w), z = clip(round(-ratio lo / s), 0, N)
// Clips (AutoRound 2309.05516, eq. 5): see clip_grid_forward in core/kernels.h. With a = high zmax + low z0:
//   asymmetric: s = a s0 / N, z = round(low z0 N / a)
//   ds/dlow = z0 s0 / N, ds/dhigh = zmax s0 / N, dz/dlow = N z0 zmax high / a^2, dz/dhigh = -N z0 zmax low / a^2
#include <cmath>
#include <limits>

#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

template <class T>
struct GroupGrid {
  T s, z;
};

// Grid on the range (low, high), low <= 0 <= high. s is a normal number, whatever the range; NaN stays.
template <class T>
GroupGrid<T> grid_on(T low, T high, int bits, Symmetry symmetry) {
  const T last = T((1 << bits) - 1);
  const bool symmetric = symmetry == Symmetry::symmetric;
  const T s = symmetric ? std::max(-low, high) / (last / 2) : (high - low) / last;
  const T smallest = std::numeric_limits<T>::min(), largest = std::numeric_limits<T>::max();
  const T step = s == 0 ? T(1) : s < smallest ? smallest : s > largest ? largest : s;
  const T z = std::nearbyint(-low / step);
  return {step, symmetric ? T(1 << (bits - 1)) : z > last ? last : z};
}

// sum (w - w_hat)^2 of round-to-nearest
template <class T>
double rounding_error(const T* w, std::int64_t count, GroupGrid<T> grid, T last) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < count; ++c) {
    const T v = std::nearbyint(w[c] / grid.s) + grid.z;
    const T error = w[c] - grid.s * ((v < 0 ? T(0) : v > last ? last : v) - grid.z);
    sum += double(error) * double(error);
  }
  return sum;
}

template <class T>
GroupGrid<T> best_grid(const T* w, std::int64_t count, int bits, Symmetry symmetry, double min_ratio, int steps) {
  T low = 0, high = 0, poison = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : poison)
  for (std::int64_t c = 0; c < count; ++c) {
    low = w[c] < low ? w[c] : low;
    high = w[c] > high ? w[c] : high;
    poison += w[c] - w[c];  // 0, or NaN where w is not finite: comparisons alone would pass over a NaN
  }
  low += poison, high += poison;
  const T last = T((1 << bits) - 1);
  GroupGrid<T> best = grid_on(low, high, bits, symmetry);
  if (steps == 1 || low == high) return best;
  double least = rounding_error(w, count, best, last);
  for (int i = 1; i < steps; ++i) {  // from the largest ratio down: the first of equals stays
    const T ratio = T(1 - double(i) * (1 - min_ratio) / double(steps - 1));
    const GroupGrid<T> grid = grid_on(ratio * low, ratio * high, bits, symmetry);
    const double error = rounding_error(w, count, grid, last);
    if (error < least) least = error, best = grid;
  }
  return best;
}

// Gradients through s = a s0 / N and z = round(low z0 N / a); those of s alone when symmetric.
template <class T>
struct ClipGradient {
  T low, high;
};

template <class T>
ClipGradient<T> clip_gradient(T ds, T dz, T s0, T z0, T low, T high, T last, Symmetry symmetry) {
  if (symmetry == Symmetry::symmetric) return {0, ds * s0};
  const T zmax = last - z0, a = high * zmax + low * z0, slope = last * z0 * zmax / (a * a);
  return {ds * z0 * s0 / last + dz * slope * high, ds * zmax * s0 / last - dz * slope * low};
}

}  // namespace

void start_grid(Context&, View scale, View zero, View w, int bits, Symmetry symmetry, double min_ratio, int steps) {
  require(steps >= 1 && min_ratio > 0 && min_ratio <= 1, "start_grid: expected steps >= 1 and a ratio in (0, 1], got ",
          steps, " and ", min_ratio);
  dispatch_float(w.dtype, "start_grid", [&]<class T>() {
    const Rows<const T> x = rows<const T>(w);
    const Rows<T> s = rows<T>(scale), z = rows<T>(zero);
    const std::int64_t group = x.cols / s.cols;
    parallel_for(x.rows * s.cols, x.rows * x.cols * steps, [&](std::int64_t i) {
      const std::int64_t r = i / s.cols, g = i % s.cols;
      const GroupGrid<T> grid = best_grid(x.row(r) + g * group, group, bits, symmetry, min_ratio, steps);
      s(r, g) = grid.s, z(r, g) = grid.z;
    });
  });
}

void clip_grid_forward(Context&, View scale, View zero, View scale0, View zero0, View low, View high, int bits,
                       Symmetry symmetry) {
  dispatch_float(scale.dtype, "clip_grid_forward", [&]<class T>() {
    const T last = T((1 << bits) - 1);
    T *s = elements<T>(scale), *z = elements<T>(zero);
    const T *s0 = elements<const T>(scale0), *z0 = elements<const T>(zero0);
    const T *lo = elements<const T>(low), *hi = elements<const T>(high);
    const bool symmetric = symmetry == Symmetry::symmetric;
    for (std::int64_t i = 0; i < scale.count(); ++i) {
      const T a = hi[i] * (last - z0[i]) + lo[i] * z0[i];
      s[i] = symmetric ? hi[i] * s0[i] : a * s0[i] / last;
      z[i] = symmetric ? z0[i] : std::nearbyint(lo[i] * z0[i] * last / a);
    }
  });
}

void clip_grid_backward(Context&, View dlow, View dhigh, View dscale, View dzero, View scale0, View zero0, View low,
                        View high, int bits, Symmetry symmetry) {
  dispatch_float(scale0.dtype, "clip_grid_backward", [&]<class T>() {
    const T last = T((1 << bits) - 1);
    T *to_low = elements<T>(dlow), *to_high = elements<T>(dhigh);
    const T *ds = elements<const T>(dscale), *dz = elements<const T>(dzero);
    const T *s0 = elements<const T>(scale0), *z0 = elements<const T>(zero0);
    const T *lo = elements<const T>(low), *hi = elements<const T>(high);
    for (std::int64_t i = 0; i < scale0.count(); ++i) {
      const ClipGradient<T> d =
          clip_gradient(ds ? ds[i] : T(0), dz ? dz[i] : T(0), s0[i], z0[i], lo[i], hi[i], last, symmetry);
      if (to_low) to_low[i] = d.low;
      if (to_high) to_high[i] = d.high;
    }
  });
}

}  // namespace cbq::cpu
