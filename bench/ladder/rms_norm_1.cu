// RMSNorm, rung 1: a thread a row, as the formula reads. Columns: any.
//
// Prediction at (2048, 8192) in bf16: under 2 % of the copy rate. Neighbouring threads read elements 16 KB apart, so a
// warp's load touches 32 sectors of 32 bytes for 64 bytes; the other bytes of a sector are used only if they are still
// in a cache at the next step. And 2,048 threads are 64 warps for 132 multiprocessors: half of them idle, the others
// wait.
#include "bench/ladder/ladder.h"
#include "cuda/value.cuh"

namespace cbq::ladder {
namespace {

using cuda::bf16;

__global__ void kernel(bf16* y, float* rstd, const bf16* x, const bf16* w, std::int64_t rows, std::int64_t cols,
                       float eps) {
  const std::int64_t r = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x;
  if (r >= rows) return;
  float squares = 0;
  for (std::int64_t c = 0; c < cols; ++c) {
    const float v = __bfloat162float(x[r * cols + c]);
    squares += v * v;
  }
  const float s = 1 / sqrtf(squares / float(cols) + eps);
  for (std::int64_t c = 0; c < cols; ++c)
    y[r * cols + c] = __float2bfloat16(__bfloat162float(x[r * cols + c]) * s * __bfloat162float(w[c]));
  if (rstd) rstd[r] = s;
}

}  // namespace

void rms_norm_thread_per_row(Context& ctx, View y, View rstd, View x, View w, double eps) {
  cuda::launch("rms_norm_thread_per_row", ctx, cuda::shape_for(x.rows(), 32), kernel, elements<bf16>(y),
               elements<float>(rstd), elements<const bf16>(x), elements<const bf16>(w), x.rows(), x.cols(), float(eps));
}

}  // namespace cbq::ladder
