// Fake quantisation of weights, rung 1: a thread a row, because a row has one step, one zero point and one row of a1.
//
// Prediction at (22016, 8192): 5 to 10 % of the copy rate. Neighbouring threads stand 16 KB apart: a warp's load or
// store of 64 bytes touches 32 sectors of 32 bytes. A sector's other bytes are used if it is still cached when the loop
// comes to them, but every store of 2 bytes goes to L2 on its own. 22,016 threads are 5 warps a multiprocessor: too few
// to hide what they wait for.
#include "bench/ladder/weight.h"

namespace cbq::ladder {
namespace {

__global__ void kernel(WeightArgs q) {
  const std::int64_t r = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x;
  if (r >= q.rows) return;
  const float s = q.scale[r], z = q.zero[r];
  for (std::int64_t c = 0; c < q.cols; ++c) {
    float offset = 0;
    for (int k = 0; k < kRank; ++k) offset += q.a1[r * kRank + k] * q.a2[k * q.cols + c];
    const float u = rintf(__bfloat162float(q.w[r * q.cols + c]) / s + offset);
    q.w_hat[r * q.cols + c] = __float2bfloat16(s * (fminf(fmaxf(u + z, 0), q.last) - z));
  }
}

}  // namespace

void weight_thread_per_row(Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
  const WeightArgs q = weight_args(w_hat, quantiser);
  cuda::launch("weight_thread_per_row", ctx, cuda::shape_for(q.rows, 64), kernel, q);
}

}  // namespace cbq::ladder
