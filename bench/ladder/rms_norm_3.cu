// RMSNorm, rung 3: 16 bytes a thread and load. Columns: a multiple of 8.
//
// What changes: a thread moves 8 neighbours with one instruction, in and out.
//
// Prediction at (2048, 8192) in bf16: 1.5 times rung 2, about 70 % of the copy rate. An eighth of the loads and stores
// for the same bytes, and more bytes on their way at a time. What is left: x is read twice. The second time it comes
// from a cache, but the walk still waits for it after the barrier, with nothing else to do.
#include "bench/ladder/ladder.h"
#include "cuda/value.cuh"

namespace cbq::ladder {
namespace {

using cuda::bf16, cuda::load_pack;

constexpr int kThreads = 256, kPack = 8;

__global__ void kernel(bf16* y, float* rstd, const bf16* x, const bf16* w, std::int64_t cols, float eps) {
  __shared__ float partial[kThreads];
  const int t = int(threadIdx.x);
  x += blockIdx.x * cols, y += blockIdx.x * cols;
  float squares = 0;
  for (std::int64_t c = t * kPack; c < cols; c += kThreads * kPack) {
    const cuda::Pack<bf16, kPack> v = load_pack<kPack>(x + c);
#pragma unroll
    for (int k = 0; k < kPack; ++k) squares += __bfloat162float(v.v[k]) * __bfloat162float(v.v[k]);
  }
  partial[t] = squares;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) partial[t] += partial[t + half];
  }
  __syncthreads();
  const float s = 1 / sqrtf(partial[0] / float(cols) + eps);
  for (std::int64_t c = t * kPack; c < cols; c += kThreads * kPack) {
    const cuda::Pack<bf16, kPack> v = load_pack<kPack>(x + c), weight = load_pack<kPack>(w + c);
    cuda::Pack<bf16, kPack> out;
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      out.v[k] = __float2bfloat16(__bfloat162float(v.v[k]) * s * __bfloat162float(weight.v[k]));
    cuda::store_pack(y + c, out);
  }
  if (rstd && t == 0) rstd[blockIdx.x] = s;
}

}  // namespace

void rms_norm_packs(Context& ctx, View y, View rstd, View x, View w, double eps) {
  require(x.cols() % kPack == 0, "rms_norm_packs: columns come in packs of 8, got ", x.cols());
  cuda::launch("rms_norm_packs", ctx, {unsigned(x.rows()), kThreads}, kernel, elements<bf16>(y), elements<float>(rstd),
               elements<const bf16>(x), elements<const bf16>(w), x.cols(), float(eps));
}

}  // namespace cbq::ladder
