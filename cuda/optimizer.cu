// Optimiser steps, element by element, in place, all in f32.
//
//   AdamW (Loshchilov & Hutter 2019, algorithm 2), t = step, from 1:
//     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//     value -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay value)
//   SignSGD: value -= lr sign(g), sign(0) = 0
#include <cmath>

#include "cuda/map.cuh"

namespace cbq::cuda {
namespace {

// AdamStep with all that does not depend on the element worked out.
struct AdamFactors {
  float lr, beta1, beta2, rest1, rest2, unbias1, unbias2, epsilon, decay;

  __device__ void apply(float& value, float& m, float& v, float g) const {
    m = beta1 * m + rest1 * g;
    v = beta2 * v + rest2 * (g * g);
    value -= lr * (m * unbias1 / (sqrtf(v * unbias2) + epsilon) + decay * value);
  }
};

AdamFactors factors_of(const AdamStep& s) {
  return {.lr = float(s.lr),
          .beta1 = float(s.beta1),
          .beta2 = float(s.beta2),
          .rest1 = float(1 - s.beta1),
          .rest2 = float(1 - s.beta2),
          .unbias1 = float(1 / (1 - std::pow(s.beta1, double(s.step)))),
          .unbias2 = float(1 / (1 - std::pow(s.beta2, double(s.step)))),
          .epsilon = float(s.epsilon),
          .decay = float(s.weight_decay)};
}

// Floor: 28 bytes an element, four reads and three writes. One pack of each array a thread: 64 bytes in flight.
template <int N>
__global__ void adamw_kernel(float* value, float* m, float* v, const float* grad, std::int64_t count,
                             AdamFactors factors) {
  for (std::int64_t i = (blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x) * N; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x * N) {
    Pack<float, N> x = load_pack<N>(value + i), first = load_pack<N>(m + i), second = load_pack<N>(v + i);
    const Pack<float, N> g = load_pack<N>(grad + i);
#pragma unroll
    for (int k = 0; k < N; ++k) factors.apply(x.v[k], first.v[k], second.v[k], g.v[k]);
    store_pack(value + i, x);
    store_pack(m + i, first);
    store_pack(v + i, second);
  }
}

template <class T>
Rows<T> one_row(const View& x) {
  require(x.dtype == DType::f32, "optimizer: expected f32, got ", x.dtype);
  return {elements<T>(x), 1, x.count(), x.count()};
}

}  // namespace

void adamw_step(Context& ctx, View value, View m, View v, View grad, const AdamStep& step) {
  require(step.step >= 1, "adamw_step: steps count from 1, got ", step.step);
  const Rows<float> x = one_row<float>(value), first = one_row<float>(m), second = one_row<float>(v);
  const Rows<const float> g = one_row<const float>(grad);
  if (x.cols == 0) return;
  constexpr int N = kPackOf<float>;
  if (packs<N>(x) && packs<N>(first) && packs<N>(second) && packs<N>(g))
    launch("adamw_step", ctx, shape_for(x.cols / N), adamw_kernel<N>, x.data, first.data, second.data, g.data, x.cols,
           factors_of(step));
  else
    launch("adamw_step", ctx, shape_for(x.cols), adamw_kernel<1>, x.data, first.data, second.data, g.data, x.cols,
           factors_of(step));
}

void sign_sgd_step(Context& ctx, View value, View grad, double lr) {
  const float rate = float(lr);
  // NaN shows.
  const auto f = [rate] __device__(float x, float g) { return x - rate * (g > 0 ? 1.f : g < 0 ? -1.f : g); };
  const Rows<float> x = one_row<float>(value);
  map("sign_sgd_step", ctx, x, f, Rows<const float>{x.data, 1, x.cols, x.cols}, one_row<const float>(grad));
}

}  // namespace cbq::cuda
