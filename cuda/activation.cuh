// Activations, their derivatives and the gated unit: cuda/activation.cu has the formulas.
#pragma once

#include <numbers>

#include "cuda/value.cuh"

namespace cbq::cuda {

// The quotient is within 2 ulp, and 0 where e^-x is above 2^126, as it would be in subnormal numbers alone.
__device__ inline float sigmoid(float x) {
  return __fdividef(1, 1 + fast_exp(-x));
}

// Value and derivative of each activation as f(x) and slope(x).
struct Relu {
  static __device__ float f(float x) { return x < 0 ? 0 : x; }                   // NaN stays
  static __device__ float slope(float x) { return x > 0 ? 1 : x <= 0 ? 0 : x; }  // NaN stays
};

struct Silu {
  static __device__ float f(float x) { return x * sigmoid(x); }
  static __device__ float slope(float x) {
    const float s = sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

struct Gelu {
  static __device__ float f(float x) { return x * phi_sum(x); }
  static __device__ float slope(float x) {
    constexpr float kInverseRootTwoPi = std::numbers::inv_sqrtpi_v<float> / std::numbers::sqrt2_v<float>;
    return phi_sum(x) + x * kInverseRootTwoPi * fast_exp(-0.5f * x * x);
  }
  // Phi(x); erfc keeps its relative precision far below zero, where 1 + erf cancels.
  static __device__ float phi_sum(float x) { return 0.5f * erfcf(-x / std::numbers::sqrt2_v<float>); }
};

struct GeluTanh {
  static constexpr float kTwoRootTwoOverPi = 2 * std::numbers::sqrt2_v<float> * std::numbers::inv_sqrtpi_v<float>;

  static __device__ float f(float x) { return x * sigmoid(kTwoRootTwoOverPi * (x + 0.044715f * x * x * x)); }
  static __device__ float slope(float x) {
    const float s = sigmoid(kTwoRootTwoOverPi * (x + 0.044715f * x * x * x));
    return s * (1 + x * (1 - s) * kTwoRootTwoOverPi * (1 + 3 * 0.044715f * x * x));
  }
};

struct Gated {
  __device__ float operator()(float gate, float up) const { return Silu::f(gate) * up; }
};
struct GatedGradient {
  __device__ float2 operator()(float dy, float gate, float up) const {
    return {dy * up * Silu::slope(gate), dy * Silu::f(gate)};
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

}  // namespace cbq::cuda
