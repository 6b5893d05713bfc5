// LayerNorm, Ba et al. 2016:
//   y = n * w + b,  n = (x - mean) * rstd,  rstd = 1 / sqrt(var_c(x) + eps), biased variance
//   dx = rstd (w dy - mean_c(w dy) - n mean_c(w dy n)) + addend,  dw = sum_r(dy n),  db = sum_r(dy)
#include <cmath>

#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

template <class T>
void forward(Rows<T> y, T* mean, T* rstd, Rows<const T> x, const T* w, const T* b, double eps) {
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const double sum = sum_over(x.cols, [&](std::int64_t c) { return double(x(r, c)); });
    const double centre = sum / double(x.cols);
    const double squares = sum_over(x.cols, [&](std::int64_t c) {
      const double centred = double(x(r, c)) - centre;
      return centred * centred;
    });
    const T m = T(centre), s = T(1 / std::sqrt(squares / double(x.cols) + eps));

#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) y(r, c) = (x(r, c) - m) * s * w[c] + b[c];
    if (mean) mean[r] = m;
    if (rstd) rstd[r] = s;
  });
}

template <class T>
void backward(Rows<T> dx, Rows<const T> dy, Rows<const T> x, const T* w, const T* mean, const T* rstd,
              Rows<const T> addend) {
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const T m = mean[r], s = rstd[r];
    const double sum = sum_over(x.cols, [&](std::int64_t c) { return double(w[c]) * double(dy(r, c)); });
    const double dot = sum_over(x.cols, [&](std::int64_t c) {  // sum_c w dy n
      return double(w[c]) * double(dy(r, c)) * ((double(x(r, c)) - double(m)) * double(s));
    });
    const T mean_g = T(sum / double(x.cols)), mean_gn = T(dot / double(x.cols));
#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c)
      dx(r, c) = s * (w[c] * dy(r, c) - mean_g - (x(r, c) - m) * s * mean_gn) + (addend.data ? addend(r, c) : T(0));
  });
}

}  // namespace

void layer_norm_forward(Context&, View y, View mean, View rstd, View x, View w, View b, double eps) {
  dispatch_float(x.dtype, "layer_norm_forward", [&]<class T>() {
    forward(rows<T>(y), elements<T>(mean), elements<T>(rstd), rows<const T>(x), elements<const T>(w),
            elements<const T>(b), eps);
  });
}

void layer_norm_backward(Context&, View dx, View dw, View db, View dy, View x, View w, View mean, View rstd,
                         View addend) {
  dispatch_float(x.dtype, "layer_norm_backward", [&]<class T>() {
    const Rows<const T> grad = rows<const T>(dy), in = rows<const T>(x);
    const T *m = elements<const T>(mean), *s = elements<const T>(rstd);
    if (dx) backward(rows<T>(dx), grad, in, elements<const T>(w), m, s, rows<const T>(addend));
    sum_rows(elements<T>(dw), in.rows, in.cols, [&](std::int64_t r, std::int64_t c) {
      return double(grad(r, c)) * ((double(in(r, c)) - double(m[r])) * double(s[r]));
    });
    sum_rows(elements<T>(db), in.rows, in.cols, [&](std::int64_t r, std::int64_t c) { return double(grad(r, c)); });
  });
}

}  // namespace cbq::cpu
