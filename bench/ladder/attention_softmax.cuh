// The softmax of one warp's 16 queries between the two products, which rungs 4 and 5 of attention share. A lane holds
// of rows lane/4 and lane/4 + 8 the columns lane%4 * 2, + 1 of every block of 8; four lanes share a row.
#pragma once

#include "bench/ladder/attention_products.cuh"

namespace cbq::ladder {

constexpr float kLog2E = 1.4426950408889634f;

struct WarpState {
  FragmentC o[kDim / 8] = {};
  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};  // of scores in base 2; sum is the lane's part
};

// Minus infinity where the key lies behind the query; both count from the first row of the tile.
__device__ inline void mask(FragmentC (&s)[kTileRows / 8]) {
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * kWarpRows + lane / 4, column = lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < kTileRows / 8; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (column + 8 * j + e % 2 > row + e / 2 * 8) s[j][e] = -INFINITY;
}

// s becomes 2^(scale2 s - max); state is brought to the new max.
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

// The warp's rows of o and lse; `first` is the first query of the tile.
__device__ inline void store(const AttentionArgs& a, const WarpState& state, int head, int first) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + int(threadIdx.x) / 32 * kWarpRows + lane / 4 + 8 * half;
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (lane % 4 == 0) a.lse[std::int64_t(head) * a.tokens + row] = (state.max[half] + log2f(sum)) / kLog2E;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j)
      *reinterpret_cast<std::uint32_t*>(a.o + a.at(head, row) + 8 * j + lane % 4 * 2) =
          cuda::pack_bf16(state.o[j][2 * half] / sum, state.o[j][2 * half + 1] / sum);
  }
}

}  // namespace cbq::ladder
