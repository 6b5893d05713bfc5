// Fake quantisation of weights, rung 2: a thread a weight.
//
// What changes: neighbouring threads take neighbouring columns, so that a warp's load is two full sectors (coalescing),
// and 180 million threads keep every multiprocessor busy.
//
// Prediction at (22016, 8192): 5 times rung 1, about 35 % of the copy rate. Bytes are no longer wasted; instructions
// are. Each weight loads its own 2 bytes, and beside them a step, a zero point, 5 numbers of a1 and 5 of a2 from a
// cache: 13 loads and about 45 instructions a weight, where the copy rate leaves time for 25.
#include "bench/ladder/weight.h"

namespace cbq::ladder {
namespace {

__global__ void kernel(WeightArgs q) {
  const std::int64_t r = blockIdx.y, c = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x;
  if (c >= q.cols) return;
  const float s = q.scale[r], z = q.zero[r];
  float offset = 0;
  for (int k = 0; k < kRank; ++k) offset += q.a1[r * kRank + k] * q.a2[k * q.cols + c];
  const float u = rintf(__bfloat162float(q.w[r * q.cols + c]) / s + offset);
  q.w_hat[r * q.cols + c] = __float2bfloat16(s * (fminf(fmaxf(u + z, 0), q.last) - z));
}

}  // namespace

void weight_thread_per_weight(Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
  constexpr unsigned kThreads = 256;
  const WeightArgs q = weight_args(w_hat, quantiser);
  const unsigned across = unsigned((q.cols + kThreads - 1) / kThreads);
  cuda::launch("weight_thread_per_weight", ctx, {dim3(across, unsigned(q.rows)), kThreads}, kernel, q);
}

}  // namespace cbq::ladder
