// Optimiser steps, element by element, in place, all in f32.
//
//   AdamW (Loshchilov & Hutter 2019, algorithm 2), t = step, from 1:
//     m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
//     value -= lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay value)
//   SignSGD: value -= lr sign(g), sign(0) = 0
// and the new value is kept in [low, high].
//
// What is learned is many small tensors, so one launch takes up to kMostTensors of them: addresses and factors travel
// as the kernel's parameters, and each tensor has a run of blocks that walk over it.
#include <algorithm>
#include <cmath>

#include "cuda/value.cuh"

namespace cbq::cuda {
namespace {

constexpr int kMostTensors = 64, kThreads = 256;  // 64 hold a window of two blocks in 6 of the 32 KB of parameters
constexpr std::int64_t kMostBlocks = 4096;        // of one tensor: enough to fill the GPU, few to look up their tensor

// Both comparisons are false for NaN.
__device__ float bounded(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}

// AdamTensor with all that does not depend on the element worked out. Floor: 28 bytes an element, four reads and three
// writes. One pack of each array a thread: 64 bytes in flight.
struct AdamItem {
  float *value, *m, *v;
  const float* grad;
  std::int64_t count;
  bool in_packs;
  float lr, beta1, beta2, rest1, rest2, unbias1, unbias2, epsilon, decay, low, high;

  template <int N>
  __device__ void update(std::int64_t i) const {
    Pack<float, N> x = load_pack<N>(value + i), first = load_pack<N>(m + i), second = load_pack<N>(v + i);
    const Pack<float, N> g = load_pack<N>(grad + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      first.v[k] = beta1 * first.v[k] + rest1 * g.v[k];
      second.v[k] = beta2 * second.v[k] + rest2 * (g.v[k] * g.v[k]);
      const float step = first.v[k] * unbias1 / (sqrtf(second.v[k] * unbias2) + epsilon) + decay * x.v[k];
      x.v[k] = bounded(x.v[k] - lr * step, low, high);
    }
    store_pack(value + i, x);
    store_pack(m + i, first);
    store_pack(v + i, second);
  }
};

// Floor: 12 bytes an element.
struct SignItem {
  float* value;
  const float* grad;
  std::int64_t count;
  bool in_packs;
  float lr, low, high;

  template <int N>
  __device__ void update(std::int64_t i) const {
    Pack<float, N> x = load_pack<N>(value + i);
    const Pack<float, N> g = load_pack<N>(grad + i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float sign = g.v[k] > 0 ? 1.f : g.v[k] < 0 ? -1.f : g.v[k];  // NaN shows
      x.v[k] = bounded(x.v[k] - lr * sign, low, high);
    }
    store_pack(value + i, x);
  }
};

// Item i has the blocks from end[i - 1] (0 for the first) to end[i].
template <class Item>
struct Batch {
  unsigned end[kMostTensors];
  Item item[kMostTensors];
};

template <int N, class Item>
__device__ void walk(const Item& item, unsigned block, unsigned blocks) {
  for (std::int64_t i = (block * std::int64_t(kThreads) + threadIdx.x) * N; i < item.count;
       i += std::int64_t(blocks) * kThreads * N)
    item.template update<N>(i);
}

template <class Item>
__global__ void __launch_bounds__(kThreads) update_kernel(const __grid_constant__ Batch<Item> batch) {
  int i = 0;
  while (blockIdx.x >= batch.end[i]) ++i;
  const unsigned begin = i == 0 ? 0 : batch.end[i - 1], block = blockIdx.x - begin, blocks = batch.end[i] - begin;
  if (batch.item[i].in_packs)
    walk<kPackOf<float>>(batch.item[i], block, blocks);
  else
    walk<1>(batch.item[i], block, blocks);
}

template <class Item>
void update(const char* name, Context& ctx, const std::vector<Item>& items) {
  for (std::size_t first = 0; first < items.size(); first += kMostTensors) {
    Batch<Item> batch{};
    const std::size_t count = std::min(items.size() - first, std::size_t(kMostTensors));
    unsigned blocks = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const Item& item = batch.item[i] = items[first + i];
      const std::int64_t packs = item.in_packs ? item.count / kPackOf<float> : item.count;
      blocks += unsigned(std::min((packs + kThreads - 1) / kThreads, kMostBlocks));
      batch.end[i] = blocks;
    }
    launch(name, ctx, {blocks, kThreads}, update_kernel<Item>, batch);
  }
}

template <class T>
T* floats(const View& x) {
  require(x.dtype == DType::f32, "optimizer: expected f32, got ", x.dtype);
  return elements<T>(x);
}

template <class... Pointers>
bool all_pack(std::int64_t count, Pointers... pointers) {
  return (packs<kPackOf<float>>(Rows<const float>{pointers, 1, count, count}) && ...);
}

AdamItem item_of(const AdamTensor& tensor) {
  const AdamStep& s = tensor.step;
  require(s.step >= 1, "adamw_step: steps count from 1, got ", s.step);
  AdamItem item{.value = floats<float>(tensor.value),
                .m = floats<float>(tensor.m),
                .v = floats<float>(tensor.v),
                .grad = floats<const float>(tensor.grad),
                .count = tensor.value.count(),
                .in_packs = false,
                .lr = float(s.lr),
                .beta1 = float(s.beta1),
                .beta2 = float(s.beta2),
                .rest1 = float(1 - s.beta1),
                .rest2 = float(1 - s.beta2),
                .unbias1 = float(1 / (1 - std::pow(s.beta1, double(s.step)))),
                .unbias2 = float(1 / (1 - std::pow(s.beta2, double(s.step)))),
                .epsilon = float(s.epsilon),
                .decay = float(s.weight_decay),
                .low = float(tensor.low),
                .high = float(tensor.high)};
  item.in_packs = all_pack(item.count, item.value, item.m, item.v, item.grad);
  return item;
}

SignItem item_of(const SignTensor& tensor) {
  SignItem item{.value = floats<float>(tensor.value),
                .grad = floats<const float>(tensor.grad),
                .count = tensor.value.count(),
                .in_packs = false,
                .lr = float(tensor.lr),
                .low = float(tensor.low),
                .high = float(tensor.high)};
  item.in_packs = all_pack(item.count, item.value, item.grad);
  return item;
}

template <class Item, class Tensors>
std::vector<Item> items_of(const Tensors& tensors) {
  std::vector<Item> items;
  for (const auto& tensor : tensors)
    if (tensor.value.count() > 0) items.push_back(item_of(tensor));
  return items;
}

}  // namespace

void adamw_step(Context& ctx, std::span<const AdamTensor> tensors) {
  update("adamw_step", ctx, items_of<AdamItem>(tensors));
}

void sign_sgd_step(Context& ctx, std::span<const SignTensor> tensors) {
  update("sign_sgd_step", ctx, items_of<SignItem>(tensors));
}

}  // namespace cbq::cuda
