// The last step of a weight's gradients: sums of the partial sums that the blocks of a kernel left, several small
// matrices in one launch, in an order that shapes alone decide.
#pragma once

#include <algorithm>

#include "cuda/rounding_weight.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {

// y_rc = factor_rc sum_j from[r row_step + c col_step + j step], j < count; factor is 1, or -scale_rc where given. No
// data in y: not wanted.
struct PartialSum {
  Rows<float> y;
  const float* from;
  std::int64_t row_step, col_step, step, count;
  const float* minus_scale;  // as y, contiguous; or null
};

constexpr int kSumRanges = 4;
struct PartialSums {
  PartialSum range[kSumRanges];
  unsigned first_block[kSumRanges + 1];  // of each range
};

// 32 outputs a block; each of kSumLanes warps takes every kSumLanes-th term, so that many loads are under way.
constexpr unsigned kSumLanes = 8;

// Floor: the partial sums read once; they come from the L2 cache.
static __global__ void finish_sums_kernel(PartialSums sums) {
  await_previous();
  __shared__ float of_lane[kSumLanes][32];
  int i = 0;
  while (blockIdx.x >= sums.first_block[i + 1]) ++i;
  const PartialSum& p = sums.range[i];
  const std::int64_t at = std::int64_t(blockIdx.x - sums.first_block[i]) * 32 + threadIdx.x, r = at / p.y.cols,
                     c = at - r * p.y.cols;
  float sum = 0;
  if (r < p.y.rows) {
    const float* from = p.from + r * p.row_step + c * p.col_step;
#pragma unroll 4
    for (std::int64_t j = threadIdx.y; j < p.count; j += kSumLanes) sum += from[j * p.step];
  }
  of_lane[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || r >= p.y.rows) return;
#pragma unroll
  for (unsigned lane = 1; lane < kSumLanes; ++lane) sum += of_lane[lane][threadIdx.x];
  row_of(p.y, r)[c] = p.minus_scale ? -p.minus_scale[at] * sum : sum;
}

inline void finish_sums(const char* name, Context& ctx, std::initializer_list<PartialSum> ranges) {
  PartialSums sums{};
  unsigned blocks = 0;
  int i = 0;
  for (const PartialSum& range : ranges) {
    sums.range[i] = range;
    sums.first_block[i++] = blocks;
    if (range.y.data) blocks += unsigned((range.y.rows * range.y.cols + 31) / 32);
  }
  for (; i <= kSumRanges; ++i) sums.first_block[i] = blocks;
  if (blocks > 0) launch_dependent(name, ctx, {blocks, dim3(32, kSumLanes)}, finish_sums_kernel, sums);
}

}  // namespace cbq::cuda
