// A norm and the quantiser that reads it (cpu/rms_norm.cpp, cpu/layer_norm.cpp, cpu/fake_quant.cpp), a row at a time:
// what lies in between is not stored.
//   n = x * rstd * w, or (x - mean) * rstd * w + b,  y = fake_quant(n)
//   backward: n again, dn = m dy and dfactor of the quantiser, then dx of the norm from dn
#include "cpu/activation_grid.h"
#include "cpu/backend.h"
#include "cpu/layer_norm_row.h"
#include "cpu/rms_norm_row.h"

namespace cbq::cpu {

void rms_norm_quant_forward(Context&, View y, const IntegerRows& integers, View rstd, View range, View x, View w,
                            double eps, const ActivationQuantiser& quantiser) {
  dispatch_float(x.dtype, "rms_norm_quant_forward", [&]<class T>() {
    const Rows<const T> in = rows<const T>(x);
    const T* weight = elements<const T>(w);
    T* s = elements<T>(rstd);
    quantise_rows<T>(y, integers, range, quantiser,
                     [&](T* n, std::int64_t r) { s[r] = rms_norm_row(n, in.row(r), weight, in.cols, eps); });
  });
}

void rms_norm_quant_backward(Context&, View dx, View dfactor, View dy, View x, View w, View rstd, View range,
                             const ActivationQuantiser& quantiser, View addend) {
  dispatch_float(x.dtype, "rms_norm_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> in = rows<const T>(x), sum = rows<const T>(addend);
    const T *weight = elements<const T>(w), *s = elements<const T>(rstd);
    quantise_rows_backward<T>(
        dfactor, dy, range, quantiser,
        [&](T* n, std::int64_t r) { rms_norm_row_of(n, in.row(r), weight, s[r], in.cols); },
        [&](const T* dn, std::int64_t r) {
          if (to.data)
            rms_norm_row_backward(to.row(r), dn, in.row(r), weight, s[r], sum.data ? sum.row(r) : nullptr, in.cols);
        });
  });
}

void layer_norm_quant_forward(Context&, View y, const IntegerRows& integers, View mean, View rstd, View range, View x,
                              View w, View b, double eps, const ActivationQuantiser& quantiser) {
  dispatch_float(x.dtype, "layer_norm_quant_forward", [&]<class T>() {
    const Rows<const T> in = rows<const T>(x);
    const T *weight = elements<const T>(w), *bias = elements<const T>(b);
    T *m = elements<T>(mean), *s = elements<T>(rstd);
    quantise_rows<T>(y, integers, range, quantiser, [&](T* n, std::int64_t r) {
      const RowMoments<T> row = layer_norm_row(n, in.row(r), weight, bias, in.cols, eps);
      m[r] = row.mean, s[r] = row.rstd;
    });
  });
}

void layer_norm_quant_backward(Context&, View dx, View dfactor, View dy, View x, View w, View b, View mean, View rstd,
                               View range, const ActivationQuantiser& quantiser, View addend) {
  dispatch_float(x.dtype, "layer_norm_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> in = rows<const T>(x), sum = rows<const T>(addend);
    const T *weight = elements<const T>(w), *bias = elements<const T>(b);
    const T *m = elements<const T>(mean), *s = elements<const T>(rstd);
    quantise_rows_backward<T>(
        dfactor, dy, range, quantiser,
        [&](T* n, std::int64_t r) {
          layer_norm_row_of(n, in.row(r), weight, bias, {m[r], s[r]}, in.cols);
        },
        [&](const T* dn, std::int64_t r) {
          if (to.data)
            layer_norm_row_backward(to.row(r), dn, in.row(r), weight, {m[r], s[r]}, sum.data ? sum.row(r) : nullptr,
                                    in.cols);
        });
  });
}

}  // namespace cbq::cpu
