// RMSNorm, Zhang & Sennrich 2019, eq. 4:
//   y = x * rstd * w,  rstd = 1 / sqrt(mean_c(x^2) + eps)
//   dx = rstd (w dy - x rstd^2 mean_c(w dy x)) + addend,  dw = sum_r(dy x rstd)
#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/rms_norm_row.h"

namespace cbq::cpu {

void rms_norm_forward(Context&, View y, View rstd, View x, View w, double eps) {
  dispatch_float(x.dtype, "rms_norm_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> in = rows<const T>(x);
    const T* weight = elements<const T>(w);
    T* s = elements<T>(rstd);
    parallel_for(in.rows, in.rows * in.cols, [&](std::int64_t r) {
      const T of_row = rms_norm_row(to.row(r), in.row(r), weight, in.cols, eps);
      if (s) s[r] = of_row;
    });
  });
}

void rms_norm_backward(Context&, View dx, View dw, View dy, View x, View w, View rstd, View addend) {
  dispatch_float(x.dtype, "rms_norm_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), in = rows<const T>(x), sum = rows<const T>(addend);
    const T *weight = elements<const T>(w), *s = elements<const T>(rstd);
    if (dx)
      parallel_for(in.rows, in.rows * in.cols, [&](std::int64_t r) {
        rms_norm_row_backward(to.row(r), grad.row(r), in.row(r), weight, s[r], sum.data ? sum.row(r) : nullptr,
                              in.cols);
      });
    sum_rows(elements<T>(dw), in.rows, in.cols,
             [&](std::int64_t r, std::int64_t c) { return double(grad(r, c)) * double(in(r, c)) * double(s[r]); });
  });
}

}  // namespace cbq::cpu
