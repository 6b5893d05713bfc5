// What one rounded weight adds to the gradients of all that decided its value; formulas in cuda/rounding_backward.cu.
#pragma once

#include "cuda/rounding_weight.cuh"

namespace cbq::cuda {

// To dscale, to the sum in dzero, m dw_hat, and doffset / unit(s).
struct Passed {
  float scale, zero, passed, offset;
};

// Of the quantised value, whose gradient dw_hat is dy.
struct ValueTerm {
  float moves;  // 1 where s moves the quotient, 0 where that is of a start_scale

  static constexpr bool kReadsGradient = true;
  __device__ void start() {}
  __device__ static float unit(float s) { return s; }
  __device__ Passed operator()(const Rounded& x, float dy, const Step& step) const {
    const float clipped = clip_nan(x.u, step.low, step.high);
    const bool inside = clipped == x.u;
    const float passed = inside ? dy : 0.0f;
    return {dy * (inside ? fmaf(-moves, x.ratio, clipped) : clipped), inside ? 0.0f : dy, passed, x.slope * passed};
  }
};

inline ValueTerm value_term(const WeightQuantiser& quantiser) {
  return {quantiser.start_scale ? 0.0f : 1.0f};
}

// |2h - 1|^exponent. Where h = 1/2 the smallest normal number stands for 0: beside the 1 it is taken from or the sign
// it is multiplied by, the result is the same.
__device__ inline float power_of_distance(float h, float exponent) {
  const float x = fabsf(2 * h - 1);
  return exp2f(exponent * log2f(x < 0x1p-126f ? 0x1p-126f : x));
}

// Of the regulariser, whose gradient dloss (1) lies on the device.
struct RegulariserTerm {
  const float* dloss;
  double minus_two_beta_over_count;
  float exponent;  // beta - 1
  float factor;

  static constexpr bool kReadsGradient = false;
  __device__ void start() { factor = float(minus_two_beta_over_count * double(*dloss)); }
  __device__ static float unit(float) { return 1; }
  __device__ Passed operator()(const Rounded& x, float, const Step&) const {
    const float h = clip_nan(x.raw, 0, 1), sign = h > 0.5f ? 1.0f : h < 0.5f ? -1.0f : 0.0f;
    return {0, 0, 0, factor * sign * power_of_distance(h, exponent) * x.slope};
  }
};

}  // namespace cbq::cuda
