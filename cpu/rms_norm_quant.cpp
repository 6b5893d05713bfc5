// RMSNorm and the quantiser that reads it (cpu/rms_norm.cpp, cpu/fake_quant.cpp), a row at a time: what lies in between
// is not stored.
//   n = x * rstd * w,  y = fake_quant(n)
//   backward: n again, dn = m dy and dfactor of the quantiser, then dx of the norm from dn
#include <numeric>
#include <vector>

#include "cpu/activation_grid.h"
#include "cpu/backend.h"
#include "cpu/rms_norm_row.h"

namespace cbq::cpu {

void rms_norm_quant_forward(Context&, View y, const IntegerRows& integers, View rstd, View range, View x, View w,
                            double eps, const ActivationQuantiser& quantiser) {
  dispatch_float(x.dtype, "rms_norm_quant_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y), ranges = rows<T>(range);
    const IntegersOut<T> out(integers);
    const Rows<const T> in = rows<const T>(x);
    const T *weight = elements<const T>(w), factor = *elements<const T>(quantiser.factor);
    T* s = elements<T>(rstd);
    parallel_for(in.rows, in.rows * in.cols, [&](std::int64_t r) {
      s[r] = rms_norm_row(to.row(r), in.row(r), weight, in.cols, eps);
      const RowRange<T> of_row = range_of_row(to.row(r), in.cols);
      ranges(r, 0) = of_row.low, ranges(r, 1) = of_row.high;
      quantise_row(to.row(r), out, r, to.row(r), in.cols,
                   grid_of_range(of_row, factor, quantiser.bits, quantiser.symmetry));
    });
  });
}

void rms_norm_quant_backward(Context&, View dx, View dfactor, View dy, View x, View w, View rstd, View range,
                             const ActivationQuantiser& quantiser, View addend) {
  dispatch_float(x.dtype, "rms_norm_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), in = rows<const T>(x), ranges = rows<const T>(range),
                        sum = rows<const T>(addend);
    const T *weight = elements<const T>(w), *s = elements<const T>(rstd);
    const T factor = *elements<const T>(quantiser.factor);
    std::vector<double> of_row(std::size_t(in.rows));
    parallel_for(in.rows, in.rows * in.cols, [&](std::int64_t r) {
      std::vector<T> n(std::size_t(in.cols)), dn(n.size());
      rms_norm_row_of(n.data(), in.row(r), weight, s[r], in.cols);
      const RowGrid<T> grid =
          grid_of_range<T>({ranges(r, 0), ranges(r, 1)}, factor, quantiser.bits, quantiser.symmetry);
      of_row[std::size_t(r)] = quantise_row_backward(dn.data(), grad.row(r), n.data(), in.cols, grid, factor);
      if (to.data)
        rms_norm_row_backward(to.row(r), dn.data(), in.row(r), weight, s[r], sum.data ? sum.row(r) : nullptr, in.cols);
    });
    if (dfactor) *elements<T>(dfactor) = T(std::accumulate(of_row.begin(), of_row.end(), 0.0));
  });
}

}  // namespace cbq::cpu
