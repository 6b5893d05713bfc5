// The softmax of attention's forward pass while tiles of keys go by (Milakov and Gimelshein 2018), on accumulators.
#pragma once

#include "cuda/attention.cuh"

namespace cbq::cuda {

// Minus infinity for keys behind the last one a row sees; `last` is that key of the lane's first row, `key` the lane's
// first column.
template <int kRowTiles, int kBlocks>
__device__ void mask(Accumulator<kRowTiles, kBlocks>& s, int last, int key) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int j = 0; j < kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (key + 8 * j + e % 2 > last + 16 * i + e / 2 * 8) s[i][j][e] = -kInfinity;
}

// A factor of each row a lane has: rows g and g + 8 of each row tile.
template <int kRowTiles>
using RowFactors = float[kRowTiles][2];

// Of rows whose scores four lanes share.
template <int kRowTiles>
struct SoftmaxState {
  RowFactors<kRowTiles> max, sum;  // of raw scores; sum is this lane's part

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) max[i][half] = -kInfinity, sum[i][half] = 0;
  }

  // Scores to exp(scale (s - max)), max over all tiles so far; what was summed with an older max must be multiplied by
  // `decay`. Every query sees key 0, so max is finite from the first tile on unless the scores themselves are not.
  template <int kBlocks>
  __device__ void add(Accumulator<kRowTiles, kBlocks>& s, RowFactors<kRowTiles>& decay, float scale_log2) {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float old = max[i][half];
        float largest = old;
#pragma unroll
        for (int j = 0; j < kBlocks; ++j) largest = fmaxf(largest, fmaxf(s[i][j][2 * half], s[i][j][2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
        max[i][half] = largest;
        const float shift = largest * scale_log2;
        decay[i][half] = exp2_fast((old - largest) * scale_log2);
        float added = 0;
#pragma unroll
        for (int j = 0; j < kBlocks; ++j)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[i][j][e] = exp2_fast(fmaf(s[i][j][e], scale_log2, -shift));
            added += s[i][j][e];
          }
        sum[i][half] = sum[i][half] * decay[i][half] + added;
      }
  }

  // The factors that make an output of sums, and the lse of rows query, query + 8, ... below `queries`.
  __device__ void finish(RowFactors<kRowTiles>& inverse, float* lse, int query, int queries, float scale) const {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float total = sum[i][half];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        inverse[i][half] = 1 / total;
        const int row = query + 16 * i + 8 * half;
        if (lse && threadIdx.x % 4 == 0 && row < queries) lse[row] = max[i][half] * scale + logf(total);
      }
  }
};

template <int kRowTiles, int kBlocks>
__device__ void scale_rows(Accumulator<kRowTiles, kBlocks>& c, const RowFactors<kRowTiles>& factor) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int j = 0; j < kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[i][j][e] *= factor[i][e / 2];
}

}  // namespace cbq::cuda
