// Sums in a fixed order: within a warp by shuffles, within a block through shared memory, over blocks by a second
// kernel. The split depends on shapes alone, so two runs give the same bits.
#pragma once

#include "cuda/value.cuh"

namespace cbq::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

struct Sum {
  template <class V>
  __device__ V operator()(V a, V b) const {
    return a + b;
  }
};
struct Max {  // a NaN is passed over unless both are
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The same result in every lane.
template <class V, class Op>
__device__ V warp_reduce(V value, Op op) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

// The same result in every thread. All kThreads threads of the block must call it.
template <int kThreads, class V, class Op>
__device__ V block_reduce(V value, Op op) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024);
  constexpr int kWarps = kThreads / 32;
  __shared__ V of_warp[kWarps];
  value = warp_reduce(value, op);
  if constexpr (kWarps == 1) return value;
  __syncthreads();  // an earlier call may still be reading
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  V total = of_warp[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) total = op(total, of_warp[w]);
  return total;
}

constexpr int kSumThreads = 256;
constexpr std::int64_t kSumBlocks = 1024;  // at most

template <class Term>
__global__ void sum_kernel(double* of_block, std::int64_t count, Term term) {
  await_previous();
  float sum = 0;  // of at most count / 2^18 terms; across threads in double
  for (std::int64_t i = blockIdx.x * std::int64_t(kSumThreads) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * kSumThreads)
    sum += term(i);
  const double total = block_reduce<kSumThreads>(double(sum), Sum());
  if (threadIdx.x == 0) of_block[blockIdx.x] = total;
}

template <class Finish>
__global__ void finish_sum_kernel(const double* of_block, std::int64_t blocks, Finish finish) {
  await_previous();
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kSumThreads) sum += of_block[i];
  const double total = block_reduce<kSumThreads>(sum, Sum());
  if (threadIdx.x == 0) finish(total);
}

// finish(sum of term(i) for i in [0, count)), on the device; term gives float, finish takes double and writes.
template <class Term, class Finish>
void sum_all(const char* name, Context& ctx, std::int64_t count, const Term& term, const Finish& finish) {
  const std::int64_t needed = (count + kSumThreads - 1) / kSumThreads;
  const std::int64_t blocks = needed < 1 ? 1 : needed < kSumBlocks ? needed : kSumBlocks;
  const Storage partial(ctx.allocator, blocks * std::int64_t(sizeof(double)));
  double* of_block = static_cast<double*>(partial.data());
  launch_dependent(name, ctx, {unsigned(blocks), kSumThreads}, sum_kernel<Term>, of_block, count, term);
  launch_dependent(name, ctx, {1, kSumThreads}, finish_sum_kernel<Finish>, static_cast<const double*>(of_block), blocks, finish);
}

// Rows that one thread of column_sum_kernel adds up.
constexpr std::int64_t kRowsPerSum = 64;

template <class Term>
__global__ void column_sum_kernel(float* partial, std::int64_t rows, std::int64_t cols, Term term) {
  await_previous();
  const std::int64_t c = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x, first = blockIdx.y * kRowsPerSum;
  if (c >= cols) return;
  const std::int64_t last = first + kRowsPerSum < rows ? first + kRowsPerSum : rows;
  float sum = 0;
  for (std::int64_t r = first; r < last; ++r) sum += term(r, c);
  partial[blockIdx.y * cols + c] = sum;
}

template <class T>
__global__ void finish_column_sum_kernel(T* y, const float* partial, std::int64_t chunks, std::int64_t cols) {
  await_previous();
  const std::int64_t c = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x;
  if (c >= cols) return;
  float sum = 0;
  for (std::int64_t i = 0; i < chunks; ++i) sum += partial[i * cols + c];
  y[c] = from_float<T>(sum);
}

// y_c = sum_r term(r, c). No data in y: not wanted.
template <class T, class Term>
void sum_columns(const char* name, Context& ctx, T* y, std::int64_t rows, std::int64_t cols, const Term& term) {
  if (!y || cols == 0) return;
  constexpr unsigned kThreads = 128;
  const std::int64_t chunks = (rows + kRowsPerSum - 1) / kRowsPerSum;
  require(chunks <= 65535, name, ": at most ", 65535 * kRowsPerSum, " rows, got ", rows);
  const Storage storage(ctx.allocator, chunks * cols * std::int64_t(sizeof(float)));
  float* partial = static_cast<float*>(storage.data());
  const unsigned across = unsigned((cols + kThreads - 1) / kThreads);
  if (chunks > 0)
    launch_dependent(name, ctx, {dim3(across, unsigned(chunks)), kThreads}, column_sum_kernel<Term>, partial, rows, cols, term);
  launch_dependent(name, ctx, {across, kThreads}, finish_column_sum_kernel<T>, y, static_cast<const float*>(partial), chunks,
         cols);
}

}  // namespace cbq::cuda
