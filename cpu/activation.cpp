// Activations and their derivatives; S(x) = 1 / (1 + e^-x), Phi and phi the normal distribution and its density.
//   relu       max(x, 0);                                       1 where x > 0, else 0
//   silu       x S(x);                                          S(x) (1 + x (1 - S(x)))
//   gelu       x Phi(x) = x (1 + erf(x / sqrt 2)) / 2;          Phi(x) + x phi(x)          (Hendrycks & Gimpel 2016)
//   gelu_tanh  x (1 + tanh u) / 2 = x S(2u), u = sqrt(2/pi) (x + 0.044715 x^3);  S(2u) (1 + x (1 - S(2u)) 2u')
//   gated      y = silu(gate) up                                                           (Shazeer 2020)
#include <cmath>
#include <numbers>

#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/silu.h"

namespace cbq::cpu {
namespace {

// Value and derivative of each activation as f(x) and slope(x).
struct Relu {
  template <class T>
  static T f(T x) {
    return x < 0 ? T(0) : x;  // NaN stays
  }
  template <class T>
  static T slope(T x) {
    return x > 0 ? T(1) : x <= 0 ? T(0) : x;  // NaN stays
  }
};

struct Gelu {
  template <class T>
  static T f(T x) {
    return x * phi_sum(x);
  }
  template <class T>
  static T slope(T x) {
    constexpr T kInverseRootTwoPi = std::numbers::inv_sqrtpi_v<T> / std::numbers::sqrt2_v<T>;
    return phi_sum(x) + x * kInverseRootTwoPi * cpu::exp(T(-0.5) * x * x);
  }
  // Phi(x); erfc keeps its relative precision far below zero, where 1 + erf cancels.
  template <class T>
  static T phi_sum(T x) {
    return T(0.5) * std::erfc(-x / std::numbers::sqrt2_v<T>);
  }
};

struct GeluTanh {
  template <class T>
  static constexpr T kTwoRootTwoOverPi = 2 * std::numbers::sqrt2_v<T>* std::numbers::inv_sqrtpi_v<T>;

  template <class T>
  static T f(T x) {
    return x * sigmoid(kTwoRootTwoOverPi<T> * (x + T(0.044715) * x * x * x));
  }
  template <class T>
  static T slope(T x) {
    const T s = sigmoid(kTwoRootTwoOverPi<T> * (x + T(0.044715) * x * x * x));
    return s * (1 + x * (1 - s) * kTwoRootTwoOverPi<T> * (1 + 3 * T(0.044715) * x * x));
  }
};

template <class Fn>
void dispatch_activation(Activation kind, const Fn& fn) {
  switch (kind) {
    case Activation::relu: return fn.template operator()<Relu>();
    case Activation::silu: return fn.template operator()<Silu>();
    case Activation::gelu: return fn.template operator()<Gelu>();
    case Activation::gelu_tanh: return fn.template operator()<GeluTanh>();
  }
}

}  // namespace

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
