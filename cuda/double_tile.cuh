// A 64x64 tile of a product of matrices in double, computed by one block: what the factorisation and the error
// propagation of GPTQ spend their time in.
#pragma once

#include "cuda/value.cuh"

namespace cbq::cuda {

constexpr int kTile = 64, kTileThreads = 128;

// The 8 x 4 elements of a tile that one thread holds: rows 8 apart, columns 16 apart, so that the 16 threads of one row
// read neighbouring columns from shared memory and share the rows' values. 32 FMAs then take 12 reads.
struct TileSum {
  double v[8][4] = {};
  static __device__ int row(int u) { return int(threadIdx.x) / 16 + 8 * u; }
  static __device__ int col(int w) { return int(threadIdx.x) % 16 + 16 * w; }

  // fn(i, j, sum_ij) for each of this thread's elements.
  template <class Fn>
  __device__ void for_each(const Fn& fn) const {
#pragma unroll
    for (int u = 0; u < 8; ++u)
#pragma unroll
      for (int w = 0; w < 4; ++w) fn(row(u), col(w), v[u][w]);
  }
};

// sum_ij = sum over k < depth, a multiple of 16, of a(k, i) b(k, j); a and b read global memory, where neighbours in i
// and in j should lie side by side. All kTileThreads threads of the block must call it, once; when it returns, no
// thread of the block will read a or b again.
template <class A, class B>
__device__ TileSum tile_product(int depth, const A& a, const B& b) {
  constexpr int kStep = 16;
  __shared__ double a_step[kStep][kTile], b_step[kStep][kTile];
  TileSum sum;
  for (int k0 = 0; k0 < depth; k0 += kStep) {
    __syncthreads();  // the step before has been used
#pragma unroll 4
    for (int e = 0; e < kStep * kTile / kTileThreads; ++e) {
      const int i = (e * kTileThreads + int(threadIdx.x)) % kTile, k = (e * kTileThreads + int(threadIdx.x)) / kTile;
      a_step[k][i] = a(k0 + k, i);
      b_step[k][i] = b(k0 + k, i);
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < kStep; ++k) {
      double from_a[8], from_b[4];
#pragma unroll
      for (int u = 0; u < 8; ++u) from_a[u] = a_step[k][TileSum::row(u)];
#pragma unroll
      for (int w = 0; w < 4; ++w) from_b[w] = b_step[k][TileSum::col(w)];
#pragma unroll
      for (int u = 0; u < 8; ++u)
#pragma unroll
        for (int w = 0; w < 4; ++w) sum.v[u][w] += from_a[u] * from_b[w];
    }
  }
  return sum;
}

}  // namespace cbq::cuda
