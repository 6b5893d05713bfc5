// Sums over rows that a kernel of rows takes along: each walker takes one row after the other, adds up its rows' terms
// in registers and writes one row of partial sums; these are then summed in order.
#pragma once

#include "cuda/mma.cuh"
#include "cuda/row.cuh"

namespace cbq::cuda {

// Whether rows of S leave enough registers for sums: 128 a thread.
template <class S>
constexpr bool kWalks = S::kHeld&& S::kThreads <= 512;
template <class S>
constexpr int kWalkingBlocksPerSm = S::kBlockThreads <= 512 ? 512 / S::kBlockThreads : 1;

// The grid of walk_rows for kInputs matrices: at least 8 rows a walker, and at most the blocks that the 132
// multiprocessors of an H200 run at once; a constant, so that the order of the sums depends on the shape alone.
template <class S, class T, int kInputs>
LaunchShape walkers(std::int64_t count) {
  const std::int64_t blocks = (count + 8 * S::kRowsPerBlock - 1) / (8 * S::kRowsPerBlock),
                     most = 132 * kWalkingBlocksPerSm<S>;
  return {unsigned(blocks < 1      ? 1
                   : blocks < most ? blocks
                                   : most),
          dim3(S::kThreads, S::kRowsPerBlock), kInputs * S::kBlockThreads * S::kPacks * sizeof(Pack<T, S::kPack>)};
}

// The number of this thread's walker.
template <class S>
__device__ std::int64_t walker() {
  return std::int64_t(blockIdx.x) * S::kRowsPerBlock + threadIdx.y;
}

// Rows of one matrix that a walker takes in turn. Each thread keeps its packs of the next row in shared memory, where
// they arrive while it works on the last one; nobody else reads them, so that no barrier is needed.
template <class S, class T>
class RowAhead {
 public:
  // number: of the matrix, among those of the kernel.
  __device__ RowAhead(const Rows<const T>& m, int number) : m_(m) {
    extern __shared__ uint4 row_copies[];
    copies_ = reinterpret_cast<typename RowIn<S, T>::RowPack*>(row_copies) + number * S::kBlockThreads * S::kPacks +
              int(threadIdx.y) * S::kThreads + int(threadIdx.x);
  }
  // Asks for row r. What take() returned before has been used.
  __device__ void fetch(std::int64_t r) const {
    const T* row = row_of(m_, r);
    walk<S>(m_.cols, [&](int i, auto c) {
      if constexpr (kBytes == 16)
        copy_async(shared_address(copies_ + i * S::kBlockThreads), row + c, kBytes);
      else
        copies_[i * S::kBlockThreads] = load_pack<S::kPack>(row + c);
    });
    commit_copies();
  }
  // Row r, asked for last.
  __device__ RowIn<S, T> take(std::int64_t r) const {
    wait_copies();
    return {row_of(m_, r), m_.cols, copies_};
  }

 private:
  static constexpr int kBytes = int(sizeof(typename RowIn<S, T>::RowPack));

  const Rows<const T>& m_;
  typename RowIn<S, T>::RowPack* copies_;
};

// fetch(r) for the first row of this walker, then for each of its rows fn(r, next), where next() fetches the row after
// it and is called once row r has been used.
template <class S, class Fetch, class Fn>
__device__ void walk_rows(std::int64_t count, const Fetch& fetch, const Fn& fn) {
  const std::int64_t step = std::int64_t(gridDim.x) * S::kRowsPerBlock;
  std::int64_t r = walker<S>();
  if (r < count) fetch(r);
  for (; r < count; r += step)
    fn(r, [&] {
      if (r + step < count) fetch(r + step);
    });
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
