// LayerNorm, Ba et al. 2016:
//   y = n * w + b,  n = (x - mean) * rstd,  rstd = 1 / sqrt(var_c(x) + eps), biased variance
//   dx = rstd (w dy - mean_c(w dy) - n mean_c(w dy n)) + addend,  dw = sum_r(dy n),  db = sum_r(dy)
#include "cpu/backend.h"
#include "cpu/layer_norm_row.h"
#include "cpu/parallel.h"

namespace cbq::cpu {

void layer_norm_forward(Context&, View y, View mean, View rstd, View x, View w, View b, double eps) {
  dispatch_float(x.dtype, "layer_norm_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> in = rows<const T>(x);
    const T *weight = elements<const T>(w), *bias = elements<const T>(b);
    T *m = elements<T>(mean), *s = elements<T>(rstd);
    parallel_for(in.rows, in.rows * in.cols, [&](std::int64_t r) {
      const RowMoments<T> row = layer_norm_row(to.row(r), in.row(r), weight, bias, in.cols, eps);
      if (m) m[r] = row.mean;
      if (s) s[r] = row.rstd;
    });
  });
}

void layer_norm_backward(Context&, View dx, View dw, View db, View dy, View x, View w, View mean, View rstd,
                         View addend) {
  dispatch_float(x.dtype, "layer_norm_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), in = rows<const T>(x), sum = rows<const T>(addend);
    const T *weight = elements<const T>(w), *m = elements<const T>(mean), *s = elements<const T>(rstd);
    if (dx)
      parallel_for(in.rows, in.rows * in.cols, [&](std::int64_t r) {
        layer_norm_row_backward(to.row(r), grad.row(r), in.row(r), weight, {m[r], s[r]},
                                sum.data ? sum.row(r) : nullptr, in.cols);
      });
    sum_rows(elements<T>(dw), in.rows, in.cols, [&](std::int64_t r, std::int64_t c) {
      return double(grad(r, c)) * ((double(in(r, c)) - double(m[r])) * double(s[r]));
    });
    sum_rows(elements<T>(db), in.rows, in.cols, [&](std::int64_t r, std::int64_t c) { return double(grad(r, c)); });
  });
}

}  // namespace cbq::cpu
