// The arithmetic of one warp on tensor cores, which rungs 4 and 5 of attention share: 16 queries against 64 keys.
// Fragments and swizzled tiles: cuda/mma.cuh. A lane holds of rows lane/4 and lane/4 + 8 the columns lane%4 * 2, + 1 of
// every block of 8.
#pragma once

#include "bench/ladder/attention.h"
#include "cuda/mma.cuh"

namespace cbq::ladder {

using cuda::FragmentA, cuda::FragmentC;

constexpr int kTileRows = 64, kWarps = 4, kThreads = 32 * kWarps, kWarpRows = kTileRows / kWarps;
constexpr int kRowBytes = cuda::kRowBytes<kDim>, kTileBytes = kTileRows * kRowBytes, kChunks = kDim / 8;

struct WarpState {
  FragmentC o[kDim / 8] = {};
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of scores in base 2; sum is the lane's part
};

// s = q k^T
__device__ inline void scores(FragmentC (&s)[kTileRows / 8], const FragmentA (&q)[kDim / 16], std::uint32_t k_tile) {
  const std::uint32_t from = k_tile + cuda::lane_offset_b<kDim>(int(threadIdx.x) % 32);
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d)
#pragma unroll
    for (int j = 0; j < kTileRows / 16; ++j) {
      std::uint32_t b[4];
      cuda::load_matrices(b, (from ^ 32 * d) + 16 * j * kRowBytes);
      cuda::multiply_add(s[2 * j], q[d], b[0], b[1]);
      cuda::multiply_add(s[2 * j + 1], q[d], b[2], b[3]);
    }
}

// Minus infinity where the key lies behind the query; both count from the first row of the tile.
__device__ inline void mask(FragmentC (&s)[kTileRows / 8]) {
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * kWarpRows + lane / 4, column = lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < kTileRows / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (column + 8 * j + e % 2 > row + e / 2 * 8) s[j][e] = -INFINITY;
}

// s becomes 2^(scale2 s - max); state is brought to the new max. Four lanes share a row.
__device__ inline void online_softmax(FragmentC (&s)[kTileRows / 8], WarpState& state, float scale2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float larger = -INFINITY;
#pragma unroll
    for (int j = 0; j < kTileRows / 8; ++j) larger = fmaxf(larger, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 1));
    larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 2));
    larger = fmaxf(state.max[half], larger * scale2);
    const float decay = cuda::exp2_fast(state.max[half] - larger);
    state.max[half] = larger, state.sum[half] *= decay;
#pragma unroll
    for (int j = 0; j < kTileRows / 8; ++j)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e)
        state.sum[half] += s[j][e] = cuda::exp2_fast(fmaf(s[j][e], scale2, -larger));
#pragma unroll
    for (FragmentC& o : state.o) o[2 * half] *= decay, o[2 * half + 1] *= decay;
  }
}

// o += p v, p rounded to bf16: two neighbouring C blocks are an A.
__device__ inline void add_values(WarpState& state, const FragmentC (&p)[kTileRows / 8], std::uint32_t v_tile) {
  const std::uint32_t from = v_tile + cuda::lane_offset_a<kDim>(int(threadIdx.x) % 32);
#pragma unroll
  for (int k = 0; k < kTileRows / 16; ++k) {
    FragmentA a;
#pragma unroll
    for (int e = 0; e < 4; ++e) a[e] = cuda::pack_bf16(p[2 * k + e / 2][e % 2 * 2], p[2 * k + e / 2][e % 2 * 2 + 1]);
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      std::uint32_t b[4];
      cuda::load_matrices_transposed(b, (from ^ 32 * j) + 16 * k * kRowBytes);
      cuda::multiply_add(state.o[2 * j], a, b[0], b[1]);
      cuda::multiply_add(state.o[2 * j + 1], a, b[2], b[3]);
    }
  }
}

// The warp's rows of o and lse; `first` is the first query of the tile.
__device__ inline void store(const AttentionArgs& a, const WarpState& state, int head, int first) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + int(threadIdx.x) / 32 * kWarpRows + lane / 4 + 8 * half;
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (lane % 4 == 0)
      a.lse[std::int64_t(head) * a.tokens + row] = (state.max[half] + log2f(sum)) / 1.4426950408889634f;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j)
      *reinterpret_cast<std::uint32_t*>(a.o + a.at(head, row) + 8 * j + lane % 4 * 2) =
          cuda::pack_bf16(state.o[j][2 * half] / sum, state.o[j][2 * half + 1] / sum);
  }
}

}  // namespace cbq::ladder
