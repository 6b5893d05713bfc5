// Activations and their derivatives; S(x) = 1 / (1 + e^-x), Phi and phi the normal distribution and its density.
//   relu       max(x, 0);                                       1 where x > 0, else 0
//   silu       x S(x);                                          S(x) (1 + x (1 - S(x)))
//   gelu       x Phi(x) = x (1 + erf(x / sqrt 2)) / 2;          Phi(x) + x phi(x)          (Hendrycks & Gimpel 2016)
//   gelu_tanh  x (1 + tanh u) / 2 = x S(2u), u = sqrt(2/pi) (x + 0.044715 x^3);  S(2u) (1 + x (1 - S(2u)) 2u')
//   gated      y = silu(gate) up;  dgate = dy up silu'(gate), dup = dy silu(gate)          (Shazeer 2020)
// Floor: one read of each input, one write of each output. Four instructions for S, two of them in the special function
// unit, keep all but gelu below the 27 instructions an element that the arithmetic has time for in bf16.
#include "cuda/activation.cuh"
#include "cuda/map.cuh"

namespace cbq::cuda {
namespace {

template <class A>
struct Value {
  __device__ float operator()(float x) const { return A::f(x); }
};
template <class A>
struct Gradient {
  __device__ float operator()(float dy, float x) const { return dy * A::slope(x); }
};

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
