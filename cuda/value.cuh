// Element types of kernels: f32 and bf16 in memory, f32 in registers, moved 16 bytes at a time where addresses allow.
#pragma once

#include <cuda_bf16.h>

#include "cuda/launch.h"

namespace cbq::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(bf16 x) {
  return __bfloat162float(x);
}
template <class T>
__device__ T from_float(float x) {
  if constexpr (std::is_same_v<T, bf16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

// N neighbours, loaded and stored by instructions of up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T v[N];
};

template <int N, class T>
__device__ Pack<std::remove_const_t<T>, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<std::remove_const_t<T>, N>*>(from);
}
// Through integers as wide as the store: nvcc writes a struct of bf16 two bytes at a time, which takes four times as
// long.
template <class T, int N>
__device__ void store_pack(T* to, const Pack<T, N>& pack) {
  if constexpr (sizeof(pack) % sizeof(uint4) == 0) {
    constexpr int kStores = int(sizeof(pack) / sizeof(uint4));
    uint4 raw[kStores];
    memcpy(raw, &pack, sizeof(pack));
#pragma unroll
    for (int i = 0; i < kStores; ++i) reinterpret_cast<uint4*>(to)[i] = raw[i];
  } else {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
  }
}

// Elements of T in 16 bytes.
template <class T>
constexpr int kPackOf = 16 / int(sizeof(T));

// Whether every row can be walked in packs of N elements.
template <int N, class T>
bool packs(const Rows<T>& x) {
  return reinterpret_cast<std::uintptr_t>(x.data) % (N * sizeof(T) < 16 ? N * sizeof(T) : 16) == 0 && x.cols % N == 0 &&
         x.stride % N == 0;
}

// Calls fn.template operator()<float>() or <bf16>(): the two types this backend computes with.
template <class Fn>
void dispatch_value(DType dtype, const char* kernel, const Fn& fn) {
  switch (dtype) {
    case DType::f32: return fn.template operator()<float>();
    case DType::bf16: return fn.template operator()<bf16>();
    default: fail(ErrorKind::failure, kernel, ": the CUDA backend computes with f32 or bf16, got ", dtype);
  }
}

}  // namespace cbq::cuda
