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
#include <numeric>
#include <vector>

#include "cpu/activation_grid.h"
#include "cpu/backend.h"

namespace cbq::cpu {

void fake_quant_forward(Context&, View y, const IntegerRows& integers, View x, const ActivationQuantiser& quantiser) {
  dispatch_float(x.dtype, "fake_quant_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const IntegersOut<T> out(integers);
    const Rows<const T> from = rows<const T>(x);
    const T factor = *elements<const T>(quantiser.factor);
    parallel_for(from.rows, from.rows * from.cols, [&](std::int64_t r) {
      const RowRange<T> range = range_of_row(from.row(r), from.cols);
      quantise_row(to.row(r), out, r, from.row(r), from.cols,
                   grid_of_range(range, factor, quantiser.bits, quantiser.symmetry));
    });
  });
}

void fake_quant_backward(Context&, View dx, View dfactor, View dy, View x, const ActivationQuantiser& quantiser) {
  dispatch_float(x.dtype, "fake_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), from = rows<const T>(x);
    const T factor = *elements<const T>(quantiser.factor);
    std::vector<double> of_row(std::size_t(from.rows));
    parallel_for(from.rows, from.rows * from.cols, [&](std::int64_t r) {
      const RowRange<T> range = range_of_row(from.row(r), from.cols);
      of_row[std::size_t(r)] =
          quantise_row_backward(to.data ? to.row(r) : nullptr, grad.row(r), from.row(r), from.cols,
                                grid_of_range(range, factor, quantiser.bits, quantiser.symmetry), factor);
    });
    if (dfactor) *elements<T>(dfactor) = T(std::accumulate(of_row.begin(), of_row.end(), 0.0));
  });
}

}  // namespace cbq::cpu
