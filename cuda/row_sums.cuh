// Sums over rows that a kernel of rows takes along: each walker takes one row after the other, adds up its rows' terms
// in registers and writes one row of partial sums; these are then summed in order.
#pragma once

#include "cuda/row.cuh"

namespace cbq::cuda {

// Whether rows of S leave enough registers for sums: 128 a thread.
template <class S>
constexpr bool kWalks = S::kHeld&& S::kThreads <= 512;
template <class S>
constexpr int kWalkingBlocksPerSm = S::kBlockThreads <= 512 ? 512 / S::kBlockThreads : 1;

// The grid of walk_rows: at least 8 rows a walker, and at most the blocks that the 132 multiprocessors of an H200 run
// at once; a constant, so that the order of the sums depends on the shape alone.
template <class S>
LaunchShape walkers(std::int64_t count) {
  const std::int64_t blocks = (count + 8 * S::kRowsPerBlock - 1) / (8 * S::kRowsPerBlock),
                     most = 132 * kWalkingBlocksPerSm<S>;
  return {unsigned(blocks < 1 ? 1 : blocks < most ? blocks : most), dim3(S::kThreads, S::kRowsPerBlock)};
}

// The number of this thread's walker.
template <class S>
__device__ std::int64_t walker() {
  return std::int64_t(blockIdx.x) * S::kRowsPerBlock + threadIdx.y;
}

// fn(r) for every row r of this walker.
template <class S, class Fn>
__device__ void walk_rows(std::int64_t count, const Fn& fn) {
  for (std::int64_t r = walker<S>(); r < count; r += std::int64_t(gridDim.x) * S::kRowsPerBlock) fn(r);
}

// Writes this walker's partial sums, held as walk counts them, into its row of `partial`.
template <class S>
__device__ void store_partial(float* partial, std::int64_t cols, const float (&sums)[S::kElements]) {
  float* row = partial + walker<S>() * cols;
  walk<S>(cols, [&](int i, auto c) {
    Pack<float, S::kPack> out;
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) out.v[k] = sums[i * S::kPack + k];
    store_pack(row + c, out);
  });
}

constexpr int kPartialLanes = 16;

// The sums y0 and y1, each of `count` rows of partial sums; an output without data is not wanted.
template <class T>
struct PartialSums {
  T* y[2];
  const float* partial;  // (2, count, cols), or (count, cols) without y1
  std::int64_t count, cols;
};

// 32 columns a block, so that a warp reads 128 bytes and 8192 columns fill the device; each of kPartialLanes warps
// takes every kPartialLanes-th row. Floor: one read of partial, which is in the L2 cache.
template <class T>
__global__ void sum_partial_kernel(PartialSums<T> sums) {
  await_previous();
  __shared__ float of_lane[kPartialLanes][32];
  T* const y = sums.y[blockIdx.y];
  if (!y) return;
  const float* partial = sums.partial + blockIdx.y * sums.count * sums.cols;
  const std::int64_t c = std::int64_t(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (c < sums.cols) {
#pragma unroll 8
    for (std::int64_t i = threadIdx.y; i < sums.count; i += kPartialLanes) sum += partial[i * sums.cols + c];
  }
  of_lane[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= sums.cols) return;
  for (int lane = 1; lane < kPartialLanes; ++lane) sum += of_lane[lane][threadIdx.x];
  y[c] = from_float<T>(sum);
}

template <class T>
void sum_partial(const char* name, Context& ctx, const PartialSums<T>& sums) {
  if (sums.cols == 0) return;
  launch_dependent(name, ctx, {dim3(unsigned((sums.cols + 31) / 32), sums.y[1] ? 2 : 1), dim3(32, kPartialLanes)},
                   sum_partial_kernel<T>, sums);
}

}  // namespace cbq::cuda
