// Element types of kernels: f32 and bf16 in memory, f32 in registers, moved 16 bytes at a time where addresses allow;
// and f8, which kernels only write.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "cuda/launch.h"

namespace cbq::cuda {

using bf16 = __nv_bfloat16;
using f8 = __nv_fp8_e4m3;

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

// Rows::row and its operator() are host functions.
template <class T>
__device__ T* row_of(const Rows<T>& x, std::int64_t r) {
  return x.data + r * x.stride;
}

// e^x in three instructions: 2^(x log2 e) by the special function unit. The relative error is at most 2^-22 + 8e-8 |x|,
// so for x <= 0 the error is below 3e-7 of e^0. Subnormal results are 0; infinities and NaN are as expf gives them.
__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
  return y;
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
// From the words that the pack came in: taken apart into halves first, a pair of bf16 costs an instruction more.
template <class T, int N>
__device__ Pack<float, N> to_floats(const Pack<T, N>& pack) {
  Pack<float, N> y;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    unsigned words[N / 2];
    memcpy(words, &pack, sizeof(pack));
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      y.v[2 * i] = __uint_as_float(words[i] << 16);
      y.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) y.v[k] = to_float(pack.v[k]);
  }
  return y;
}
template <class T, int N>
__device__ Pack<T, N> from_floats(const Pack<float, N>& x) {
  Pack<T, N> y;
#pragma unroll
  for (int k = 0; k < N; ++k) y.v[k] = from_float<T>(x.v[k]);
  return y;
}
// The largest element; a NaN is passed over unless all are.
template <class T, int N>
__device__ float largest_of(const Pack<T, N>& pack) {
  float y;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    unsigned words[N / 2];
    memcpy(words, &pack, sizeof(pack));
#pragma unroll
    for (int i = 1; i < N / 2; ++i) asm("max.bf16x2 %0, %0, %1;" : "+r"(words[0]) : "r"(words[i]));
    y = fmaxf(__uint_as_float(words[0] << 16), __uint_as_float(words[0] & 0xffff0000u));
  } else {
    y = to_float(pack.v[0]);
#pragma unroll
    for (int k = 1; k < N; ++k) y = fmaxf(y, to_float(pack.v[k]));
  }
  return y;
}
template <int N, class T>
__device__ Pack<float, N> load_floats(const T* from) {
  return to_floats(load_pack<N>(from));
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

// Four numbers in the order of memory.
__device__ inline unsigned f8_word(float a, float b, float c, float d) {
  const unsigned low = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3),
                 high = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}
// Rounded to f8.
template <int N>
__device__ void store_f8(f8* to, const float (&x)[N]) {
  static_assert(N == 1 || N == 4 || N == 8);
  if constexpr (N == 8)
    *reinterpret_cast<uint2*>(to) = make_uint2(f8_word(x[0], x[1], x[2], x[3]), f8_word(x[4], x[5], x[6], x[7]));
  else if constexpr (N == 4)
    *reinterpret_cast<unsigned*>(to) = f8_word(x[0], x[1], x[2], x[3]);
  else
    *to = f8(x[0]);
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

// Whether every row of m can be walked in packs of N elements, or m is not there.
template <int N, class M>
bool packs_if_any(const M& m) {
  return !m.data || packs<N>(m);
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
