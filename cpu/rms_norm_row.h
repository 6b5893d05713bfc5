// RMSNorm of one row (cpu/rms_norm.cpp): what the op and the one fused with a quantiser share.
#pragma once

#include <cmath>

#include "cpu/vector_math.h"

namespace cbq::cpu {

// y = x * rstd * w
template <class T>
void rms_norm_row_of(T* y, const T* x, const T* w, T rstd, std::int64_t cols) {
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) y[c] = x[c] * rstd * w[c];
}

// The same with the rstd of x, which is the result.
template <class T>
T rms_norm_row(T* y, const T* x, const T* w, std::int64_t cols, double eps) {
  const double squares = sum_over(cols, [&](std::int64_t c) { return double(x[c]) * double(x[c]); });
  const T s = T(1 / std::sqrt(squares / double(cols) + eps));
  rms_norm_row_of(y, x, w, s, cols);
  return s;
}

// dx = rstd (w dy - x rstd^2 mean_c(w dy x)) + addend; an addend that is null counts as zero, and may be dx.
template <class T>
void rms_norm_row_backward(T* dx, const T* dy, const T* x, const T* w, T rstd, const T* addend, std::int64_t cols) {
  const double dot = sum_over(cols, [&](std::int64_t c) { return double(w[c]) * double(dy[c]) * double(x[c]); });
  const T k = T(dot / double(cols) * double(rstd) * double(rstd));
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) dx[c] = rstd * (w[c] * dy[c] - x[c] * k) + (addend ? addend[c] : T(0));
}

}  // namespace cbq::cpu
