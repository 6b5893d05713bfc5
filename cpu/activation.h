// Activations and their derivatives: cpu/activation.cpp has the formulas.
#pragma once

#include <cmath>
#include <numbers>

#include "core/kernel_args.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {

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

struct Silu {
  template <class T>
  static T f(T x) {
    return x * sigmoid(x);
  }
  template <class T>
  static T slope(T x) {
    const T s = sigmoid(x);
    return s * (1 + x * (1 - s));
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

}  // namespace cbq::cpu
