// An activation or the gated unit and the quantiser that reads it (cpu/activation.cpp, cpu/fake_quant.cpp), a row at a
// time: what lies in between is not stored.
//   h = f(x), or silu(gate) up,  y = fake_quant(h)
//   backward: h again, dh = m dy and dfactor of the quantiser, then dx = dh f'(x), or dgate = dh up silu'(gate) and
//   dup = dh silu(gate)
#include "cpu/activation.h"
#include "cpu/activation_grid.h"
#include "cpu/backend.h"

namespace cbq::cpu {
namespace {

template <class A, class T>
void activated_row(T* h, const T* x, std::int64_t cols) {
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) h[c] = A::f(x[c]);
}

template <class T>
void gated_row(T* h, const T* gate, const T* up, std::int64_t cols) {
#pragma omp simd
  for (std::int64_t c = 0; c < cols; ++c) h[c] = Silu::f(gate[c]) * up[c];
}

}  // namespace

void activation_quant_forward(Context&, View y, const IntegerRows& integers, View range, View x, Activation kind,
                              const ActivationQuantiser& quantiser) {
  dispatch_float(y.dtype, "activation_quant_forward", [&]<class T>() {
    const Rows<const T> in = rows<const T>(x);
    dispatch_activation(kind, [&]<class A>() {
      quantise_rows<T>(y, integers, range, quantiser,
                       [&](T* h, std::int64_t r) { activated_row<A>(h, in.row(r), in.cols); });
    });
  });
}

void activation_quant_backward(Context&, View dx, View dfactor, View dy, View x, View range, Activation kind,
                               const ActivationQuantiser& quantiser) {
  dispatch_float(dy.dtype, "activation_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> in = rows<const T>(x);
    dispatch_activation(kind, [&]<class A>() {
      quantise_rows_backward<T>(
          dfactor, dy, range, quantiser, [&](T* h, std::int64_t r) { activated_row<A>(h, in.row(r), in.cols); },
          [&](const T* dh, std::int64_t r) {
            if (!to.data) return;
#pragma omp simd
            for (std::int64_t c = 0; c < in.cols; ++c) to(r, c) = dh[c] * A::slope(in(r, c));
          });
    });
  });
}

void gated_quant_forward(Context&, View y, const IntegerRows& integers, View range, View gate, View up,
                         const ActivationQuantiser& quantiser) {
  dispatch_float(y.dtype, "gated_quant_forward", [&]<class T>() {
    const Rows<const T> g = rows<const T>(gate), u = rows<const T>(up);
    quantise_rows<T>(y, integers, range, quantiser,
                     [&](T* h, std::int64_t r) { gated_row(h, g.row(r), u.row(r), g.cols); });
  });
}

void gated_quant_backward(Context&, View dgate, View dup, View dfactor, View dy, View gate, View up, View range,
                          const ActivationQuantiser& quantiser) {
  dispatch_float(dy.dtype, "gated_quant_backward", [&]<class T>() {
    const Rows<T> to_gate = rows<T>(dgate), to_up = rows<T>(dup);
    const Rows<const T> g = rows<const T>(gate), u = rows<const T>(up);
    quantise_rows_backward<T>(
        dfactor, dy, range, quantiser, [&](T* h, std::int64_t r) { gated_row(h, g.row(r), u.row(r), g.cols); },
        [&](const T* dh, std::int64_t r) {
#pragma omp simd
          for (std::int64_t c = 0; c < g.cols; ++c) {
            if (to_gate.data) to_gate(r, c) = dh[c] * u(r, c) * Silu::slope(g(r, c));
            if (to_up.data) to_up(r, c) = dh[c] * Silu::f(g(r, c));
          }
        });
  });
}

}  // namespace cbq::cpu
