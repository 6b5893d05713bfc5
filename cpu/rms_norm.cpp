// RMSNorm, Zhang & Sennrich 2019, eq. 4:
//   y = x * rstd * w,  rstd = 1 / sqrt(mean_c(x^2) + eps)
//   dx = rstd (w dy - x rstd^2 mean_c(w dy x)),  dw = sum_r(dy x rstd)
#include <cmath>

#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

template <class T>
void forward(Rows<T> y, T* rstd, Rows<const T> x, const T* w, double eps) {
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const double squares = sum_over(x.cols, [&](std::int64_t c) { return double(x(r, c)) * double(x(r, c)); });
    const T s = T(1 / std::sqrt(squares / double(x.cols) + eps));

#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) y(r, c) = x(r, c) * s * w[c];
    if (rstd) rstd[r] = s;
  });
}

template <class T>
void backward(Rows<T> dx, Rows<const T> dy, Rows<const T> x, const T* w, const T* rstd) {
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const double dot =
        sum_over(x.cols, [&](std::int64_t c) { return double(w[c]) * double(dy(r, c)) * double(x(r, c)); });
    const T s = rstd[r], k = T(dot / double(x.cols) * double(s) * double(s));

#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) dx(r, c) = s * (w[c] * dy(r, c) - x(r, c) * k);
  });
}

}  // namespace

void rms_norm_forward(Context&, View y, View rstd, View x, View w, double eps) {
  dispatch_float(x.dtype, "rms_norm_forward", [&]<class T>() {
    forward(rows<T>(y), elements<T>(rstd), rows<const T>(x), elements<const T>(w), eps);
  });
}

void rms_norm_backward(Context&, View dx, View dw, View dy, View x, View w, View rstd) {
  dispatch_float(x.dtype, "rms_norm_backward", [&]<class T>() {
    const Rows<const T> grad = rows<const T>(dy), in = rows<const T>(x);
    const T* s = elements<const T>(rstd);
    if (dx) backward(rows<T>(dx), grad, in, elements<const T>(w), s);
    sum_rows(elements<T>(dw), in.rows, in.cols,
             [&](std::int64_t r, std::int64_t c) { return double(grad(r, c)) * double(in(r, c)) * double(s[r]); });
  });
}

}  // namespace cbq::cpu
