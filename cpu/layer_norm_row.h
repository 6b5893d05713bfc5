// LayerNorm of one row (cpu/layer_norm.cpp): what the op and the one fused with a quantiser share.
#pragma once

#include <cmath>

#include "cpu/vector_math.h"

namespace cbq::cpu {

template <class T>
struct RowMoments {
  T mean, rstd;
};

// y = (x - mean) * rstd * w + b
template <class T>
void layer_norm_row_of(T* y, const T* x, const T* w, const T* b, const RowMoments<T>& row, std::int64_t cols) {
  const auto [mean, rstd] = row;
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) y[c] = (x[c] - mean) * rstd * w[c] + b[c];
}

// The same with the moments of x, which are the result.
template <class T>
RowMoments<T> layer_norm_row(T* y, const T* x, const T* w, const T* b, std::int64_t cols, double eps) {
  const double mean = sum_over(cols, [&](std::int64_t c) { return double(x[c]); }) / double(cols);
  const double squares = sum_over(cols, [&](std::int64_t c) {
    const double centred = double(x[c]) - mean;
    return centred * centred;
  });
  const RowMoments<T> row = {T(mean), T(1 / std::sqrt(squares / double(cols) + eps))};
  layer_norm_row_of(y, x, w, b, row, cols);
  return row;
}

// dx = rstd (w dy - mean_c(w dy) - n mean_c(w dy n)) + addend; an addend that is null counts as zero, and may be dx.
template <class T>
void layer_norm_row_backward(T* dx, const T* dy, const T* x, const T* w, const RowMoments<T>& row, const T* addend,
                             std::int64_t cols) {
  const auto [mean, rstd] = row;
  const double sum = sum_over(cols, [&](std::int64_t c) { return double(w[c]) * double(dy[c]); });
  const double dot = sum_over(cols, [&](std::int64_t c) {  // sum_c w dy n
    return double(w[c]) * double(dy[c]) * ((double(x[c]) - double(mean)) * double(rstd));
  });
  const T mean_g = T(sum / double(cols)), mean_gn = T(dot / double(cols));
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c)
    dx[c] = rstd * (w[c] * dy[c] - mean_g - (x[c] - mean) * rstd * mean_gn) + (addend ? addend[c] : T(0));
}

}  // namespace cbq::cpu
