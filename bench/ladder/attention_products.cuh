// The two products of one warp on tensor cores, which rungs 4 and 5 of attention share: 16 queries by 64 keys.
// Fragments and swizzled tiles: cuda/mma.cuh.
#pragma once

#include "bench/ladder/attention.h"
#include "cuda/mma.cuh"

namespace cbq::ladder {

using cuda::FragmentA, cuda::FragmentC;

constexpr int kTileRows = 64, kWarps = 4, kThreads = 32 * kWarps, kWarpRows = kTileRows / kWarps;
constexpr int kRowBytes = cuda::kRowBytes<kDim>, kTileBytes = kTileRows * kRowBytes, kChunks = kDim / 8;

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

// o += p v, p rounded to bf16: two neighbouring C blocks are an A.
__device__ inline void add_product(FragmentC (&o)[kDim / 8], const FragmentC (&p)[kTileRows / 8],
                                   std::uint32_t v_tile) {
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
      cuda::multiply_add(o[2 * j], a, b[0], b[1]);
      cuda::multiply_add(o[2 * j + 1], a, b[2], b[3]);
    }
  }
}

}  // namespace cbq::ladder
