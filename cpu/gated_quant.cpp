// The gated unit and the quantiser that reads it (cpu/activation.cpp, cpu/fake_quant.cpp), a row at a time: what lies
// in between is not stored.
//   h = silu(gate) up,  y = fake_quant(h)
//   backward: h again, dh = m dy and dfactor of the quantiser, then dgate = dh up silu'(gate), dup = dh silu(gate)
#include <numeric>
#include <vector>

#include "cpu/activation_grid.h"
#include "cpu/backend.h"
#include "cpu/silu.h"

namespace cbq::cpu {
namespace {

template <class T>
void gated_row(T* h, const T* gate, const T* up, std::int64_t cols) {
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) h[c] = Silu::f(gate[c]) * up[c];
}

}  // namespace

void gated_quant_forward(Context&, View y, const IntegerRows& integers, View range, View gate, View up,
                         const ActivationQuantiser& quantiser) {
  dispatch_float(y.dtype, "gated_quant_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y), ranges = rows<T>(range);
    const IntegersOut<T> out(integers);
    const Rows<const T> g = rows<const T>(gate), u = rows<const T>(up);
    const T factor = *elements<const T>(quantiser.factor);
    parallel_for(to.rows, to.rows * to.cols, [&](std::int64_t r) {
      gated_row(to.row(r), g.row(r), u.row(r), to.cols);
      const RowRange<T> of_row = range_of_row(to.row(r), to.cols);
      ranges(r, 0) = of_row.low, ranges(r, 1) = of_row.high;
      quantise_row(to.row(r), out, r, to.row(r), to.cols,
                   grid_of_range(of_row, factor, quantiser.bits, quantiser.symmetry));
    });
  });
}

void gated_quant_backward(Context&, View dgate, View dup, View dfactor, View dy, View gate, View up, View range,
                          const ActivationQuantiser& quantiser) {
  dispatch_float(dy.dtype, "gated_quant_backward", [&]<class T>() {
    const Rows<T> to_gate = rows<T>(dgate), to_up = rows<T>(dup);
    const Rows<const T> grad = rows<const T>(dy), g = rows<const T>(gate), u = rows<const T>(up),
                        ranges = rows<const T>(range);
    const T factor = *elements<const T>(quantiser.factor);
    std::vector<double> of_row(std::size_t(grad.rows));
    parallel_for(grad.rows, grad.rows * grad.cols, [&](std::int64_t r) {
      std::vector<T> h(std::size_t(grad.cols)), dh(h.size());
      gated_row(h.data(), g.row(r), u.row(r), grad.cols);
      const RowGrid<T> grid =
          grid_of_range<T>({ranges(r, 0), ranges(r, 1)}, factor, quantiser.bits, quantiser.symmetry);
      of_row[std::size_t(r)] = quantise_row_backward(dh.data(), grad.row(r), h.data(), grad.cols, grid, factor);
#pragma omp simd
      for (std::int64_t c = 0; c < grad.cols; ++c) {
        const T d = dh[std::size_t(c)];
        if (to_gate.data) to_gate(r, c) = d * u(r, c) * Silu::slope(g(r, c));
        if (to_up.data) to_up(r, c) = d * Silu::f(g(r, c));
      }
    });
    if (dfactor) *elements<T>(dfactor) = T(std::accumulate(of_row.begin(), of_row.end(), 0.0));
  });
}

}  // namespace cbq::cpu
