// Activations and their derivatives; S(x) = 1 / (1 + e^-x), Phi and phi the normal distribution and its density.
//   relu       max(x, 0);                                       1 where x > 0, else 0
//   silu       x S(x);                                          S(x) (1 + x (1 - S(x)))
//   gelu       x Phi(x) = x (1 + erf(x / sqrt 2)) / 2;          Phi(x) + x phi(x)          (Hendrycks & Gimpel 2016)
//   gelu_tanh  x (1 + tanh u) / 2 = x S(2u), u = sqrt(2/pi) (x + 0.044715 x^3);  S(2u) (1 + x (1 - S(2u)) 2u')
//   gated      y = silu(gate) up                                                           (Shazeer 2020)
#include "cpu/activation.h"
#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {

void activation_forward(Context&, View y, View x, Activation kind) {
  dispatch_float(x.dtype, "activation_forward", [&]<class T>() {
    dispatch_activation(kind, [&]<class A>() {
      const auto f = [](T u) { return A::f(u); };
      map(rows<T>(y), f, rows<const T>(x));
    });
  });
}

void activation_backward(Context&, View dx, View dy, View x, Activation kind) {
  dispatch_float(x.dtype, "activation_backward", [&]<class T>() {
    dispatch_activation(kind, [&]<class A>() {
      const auto f = [](T grad, T u) { return grad * A::slope(u); };
      map(rows<T>(dx), f, rows<const T>(dy), rows<const T>(x));
    });
  });
}

void gated_forward(Context&, View y, View gate, View up) {
  dispatch_float(y.dtype, "gated_forward", [&]<class T>() {
    const auto f = [](T g, T u) { return Silu::f(g) * u; };
    map(rows<T>(y), f, rows<const T>(gate), rows<const T>(up));
  });
}

void gated_backward(Context&, View dgate, View dup, View dy, View gate, View up) {
  dispatch_float(dy.dtype, "gated_backward", [&]<class T>() {
    const Rows<const T> grad = rows<const T>(dy), g = rows<const T>(gate), u = rows<const T>(up);
    if (dgate) {
      const auto f = [](T d, T a, T b) { return d * b * Silu::slope(a); };
      map(rows<T>(dgate), f, grad, g, u);
    }
    if (dup) {
      const auto f = [](T d, T a) { return d * Silu::f(a); };
      map(rows<T>(dup), f, grad, g);
    }
  });
}

}  // namespace cbq::cpu
