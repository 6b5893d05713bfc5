// Activations and their derivatives; S(x) = 1 / (1 + e^-x), Phi and phi the normal distribution and its density.
//   relu       max(x, 0);                                       1 where x > 0, else 0
//   silu       x S(x);                                          S(x) (1 + x (1 - S(x)))
//   gelu       x Phi(x) = x (1 + erf(x / sqrt 2)) / 2;          Phi(x) + x phi(x)          (Hendrycks & Gimpel 2016)
//   gelu_tanh  x (1 + tanh u) / 2 = x S(2u), u = sqrt(2/pi) (x + 0.044715 x^3);  S(2u) (1 + x (1 - S(2u)) 2u')
//   gated      y = silu(gate) up;  dgate = dy up silu'(gate), dup = dy silu(gate)          (Shazeer 2020)
// Floor: one read of each input, one write of each output. Four instructions for S, two of them in the special function
// unit, keep all but gelu below the 27 instructions an element that the arithmetic has time for in bf16.
#include <numbers>

#include "cuda/map.cuh"
#include "cuda/silu.cuh"

namespace cbq::cuda {
namespace {

// Value and derivative of each activation as f(x) and slope(x).
struct Relu {
  static __device__ float f(float x) { return x < 0 ? 0 : x; }                   // NaN stays
  static __device__ float slope(float x) { return x > 0 ? 1 : x <= 0 ? 0 : x; }  // NaN stays
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

template <class A>
struct Value {
  __device__ float operator()(float x) const { return A::f(x); }
};
template <class A>
struct Gradient {
  __device__ float operator()(float dy, float x) const { return dy * A::slope(x); }
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

void activation_forward(Context& ctx, View y, View x, Activation kind) {
  dispatch_value(x.dtype, "activation_forward", [&]<class T>() {
    dispatch_activation(kind,
                        [&]<class A>() { map("activation_forward", ctx, rows<T>(y), Value<A>(), rows<const T>(x)); });
  });
}

void activation_backward(Context& ctx, View dx, View dy, View x, Activation kind) {
  dispatch_value(x.dtype, "activation_backward", [&]<class T>() {
    dispatch_activation(kind, [&]<class A>() {
      map("activation_backward", ctx, rows<T>(dx), Gradient<A>(), rows<const T>(dy), rows<const T>(x));
    });
  });
}

void gated_forward(Context& ctx, View y, View gate, View up) {
  dispatch_value(y.dtype, "gated_forward", [&]<class T>() {
    map("gated_forward", ctx, rows<T>(y), Gated(), rows<const T>(gate), rows<const T>(up));
  });
}

void gated_backward(Context& ctx, View dgate, View dup, View dy, View gate, View up) {
  dispatch_value(dy.dtype, "gated_backward", [&]<class T>() {
    map_two("gated_backward", ctx, rows<T>(dgate), rows<T>(dup), dy.rows(), dy.cols(), GatedGradient(),
            rows<const T>(dy), rows<const T>(gate), rows<const T>(up));
  });
}

}  // namespace cbq::cuda
