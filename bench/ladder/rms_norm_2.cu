// RMSNorm, rung 2: a block a row. Columns: any.
//
// What changes: 256 threads share a row. Neighbours read neighbouring elements (coalescing: a warp's load is two full
// sectors of 32 bytes), and the row's sum is a tree through shared memory.
//
// Prediction at (2048, 8192) in bf16: 20 to 30 times rung 1, about 45 % of the copy rate. All sectors are used now and
// all multiprocessors work. What is left: a load moves 2 bytes a thread, so instructions and not bytes bound the loop.
#include "bench/ladder/ladder.h"
#include "cuda/value.cuh"

namespace cbq::ladder {
namespace {

using cuda::bf16;

constexpr int kThreads = 256;

__global__ void kernel(bf16* y, float* rstd, const bf16* x, const bf16* w, std::int64_t cols, float eps) {
  __shared__ float partial[kThreads];
  const int t = int(threadIdx.x);
  x += blockIdx.x * cols, y += blockIdx.x * cols;
  float squares = 0;
  for (std::int64_t c = t; c < cols; c += kThreads) {
    const float v = __bfloat162float(x[c]);
    squares += v * v;
  }
  partial[t] = squares;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) partial[t] += partial[t + half];
  }
  __syncthreads();
  const float s = 1 / sqrtf(partial[0] / float(cols) + eps);
  for (std::int64_t c = t; c < cols; c += kThreads)
    y[c] = __float2bfloat16(__bfloat162float(x[c]) * s * __bfloat162float(w[c]));
  if (rstd && t == 0) rstd[blockIdx.x] = s;
}

}  // namespace

void rms_norm_block_per_row(Context& ctx, View y, View rstd, View x, View w, double eps) {
  cuda::launch("rms_norm_block_per_row", ctx, {unsigned(x.rows()), kThreads}, kernel, elements<bf16>(y),
               elements<float>(rstd), elements<const bf16>(x), elements<const bf16>(w), x.cols(), float(eps));
}

}  // namespace cbq::ladder
