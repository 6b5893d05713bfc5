// SiLU, its derivative, and the gated unit: cuda/activation.cu has the formulas.
#pragma once

#include "cuda/value.cuh"

namespace cbq::cuda {

// The quotient is within 2 ulp, and 0 where e^-x is above 2^126, as it would be in subnormal numbers alone.
__device__ inline float sigmoid(float x) {
  return __fdividef(1, 1 + fast_exp(-x));
}

struct Silu {
  static __device__ float f(float x) { return x * sigmoid(x); }
  static __device__ float slope(float x) {
    const float s = sigmoid(x);
    return s * (1 + x * (1 - s));
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

}  // namespace cbq::cuda
