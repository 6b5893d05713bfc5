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

  __device__ void start() {}  // once a thread, before its first weight
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

// The same of a sigmoid rounder with its regulariser.
struct RegularisedTerm {
  ValueTerm value;
  const float* regulariser;  // lambda, beta
  float minus_two_over_count;
  float factor, exponent;

  __device__ void start() {
    factor = minus_two_over_count * regulariser[0] * regulariser[1];
    exponent = regulariser[1] - 1;
  }
  __device__ static float unit(float s) { return ValueTerm::unit(s); }
  __device__ Passed operator()(const Rounded& x, float dy, const Step& step) const {
    Passed p = value(x, dy, step);
    // Of a NaN, which saturation hides, the slope is NaN.
    const float distance = fmaf(2, __saturatef(x.raw), -1),
                power = exp2_approx(exponent * log2_approx(fabsf(distance)));
    p.offset = fmaf(x.slope * __fdividef(factor, step.s), copysignf(power, distance), p.offset);
    return p;
  }
};

inline RegularisedTerm regularised_term(const WeightQuantiser& quantiser) {
  return {value_term(quantiser), elements<const float>(quantiser.regulariser), float(-2 / double(quantiser.w.count())),
          0, 0};
}

// Calls fn.template operator()<Rounder>(term).
template <class Fn>
void dispatch_term(const WeightQuantiser& quantiser, const Fn& fn) {
  if (quantiser.regulariser) return fn.template operator()<Rounder::sigmoid>(regularised_term(quantiser));
  dispatch_rounder(quantiser.rounder,
                   [&]<Rounder kRounder>() { fn.template operator()<kRounder>(value_term(quantiser)); });
}

}  // namespace cbq::cuda
