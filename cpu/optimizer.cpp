// Optimiser steps, element by element, in place.
//
//   AdamW (Loshchilov & Hutter 2019, algorithm 2), t = step, from 1:
//     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//     value -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay value)
//   SignSGD: value -= lr sign(g), sign(0) = 0
// and the new value is kept in [low, high].
#include <cmath>

#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

// Both comparisons are false for NaN.
template <class T>
T bounded(T x, T low, T high) {
  return x < low ? low : x > high ? high : x;
}

void adamw(const AdamTensor& tensor) {
  const AdamStep& step = tensor.step;
  require(step.step >= 1, "adamw_step: steps count from 1, got ", step.step);
  dispatch_float(tensor.value.dtype, "adamw_step", [&]<class T>() {
    T *x = elements<T>(tensor.value), *first = elements<T>(tensor.m), *second = elements<T>(tensor.v);
    const T* g = elements<const T>(tensor.grad);
    const T beta1 = T(step.beta1), beta2 = T(step.beta2), rest1 = T(1 - step.beta1), rest2 = T(1 - step.beta2);
    const T unbias1 = T(1 / (1 - std::pow(step.beta1, double(step.step))));
    const T unbias2 = T(1 / (1 - std::pow(step.beta2, double(step.step))));
    const T lr = T(step.lr), epsilon = T(step.epsilon), decay = T(step.weight_decay);
    const T low = T(tensor.low), high = T(tensor.high);
    for_pieces(1, tensor.value.count(), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        first[i] = beta1 * first[i] + rest1 * g[i];
        second[i] = beta2 * second[i] + rest2 * (g[i] * g[i]);
        const T update = first[i] * unbias1 / (std::sqrt(second[i] * unbias2) + epsilon) + decay * x[i];
        x[i] = bounded(x[i] - lr * update, low, high);
      }
    });
  });
}

void sign_sgd(const SignTensor& tensor) {
  dispatch_float(tensor.value.dtype, "sign_sgd_step", [&]<class T>() {
    T* x = elements<T>(tensor.value);
    const T *g = elements<const T>(tensor.grad), rate = T(tensor.lr), low = T(tensor.low), high = T(tensor.high);
    for_pieces(1, tensor.value.count(), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i)
        x[i] = bounded(x[i] - rate * (g[i] > 0 ? T(1) : g[i] < 0 ? T(-1) : g[i]), low, high);  // NaN shows
    });
  });
}

}  // namespace

void adamw_step(Context&, std::span<const AdamTensor> tensors) {
  for (const AdamTensor& tensor : tensors) adamw(tensor);
}

void sign_sgd_step(Context&, std::span<const SignTensor> tensors) {
  for (const SignTensor& tensor : tensors) sign_sgd(tensor);
}

}  // namespace cbq::cpu
