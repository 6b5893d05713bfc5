// Fake quantisation of weights, rung 3: 8 weights a thread, moved as 16 bytes.
//
// What changes: one load and one store for 8 neighbours, which share the step, the zero point and the row of a1.
//
// Prediction at (22016, 8192): 1.6 times rung 2, about 55 % of the copy rate. The loads a weight fall from 13 to 2.4.
// What is left: a2 again comes from a cache with every row, 20 bytes a weight beside the 4 bytes of the floor.
#include "bench/ladder/weight.h"

namespace cbq::ladder {
namespace {

constexpr int kPack = 8;

__global__ void kernel(WeightArgs q) {
  const std::int64_t r = blockIdx.y, c = (blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x) * kPack;
  if (c >= q.cols) return;
  const float s = q.scale[r], z = q.zero[r];
  float offset[kPack] = {};
#pragma unroll
  for (int k = 0; k < kRank; ++k) {
    const float left = q.a1[r * kRank + k];
    const cuda::Pack<float, kPack> right = cuda::load_pack<kPack>(q.a2 + k * q.cols + c);
#pragma unroll
    for (int n = 0; n < kPack; ++n) offset[n] += left * right.v[n];
  }
  const cuda::Pack<bf16, kPack> w = cuda::load_pack<kPack>(q.w + r * q.cols + c);
  cuda::Pack<bf16, kPack> out;
#pragma unroll
  for (int n = 0; n < kPack; ++n) {
    const float u = rintf(__bfloat162float(w.v[n]) / s + offset[n]);
    out.v[n] = __float2bfloat16(s * (fminf(fmaxf(u + z, 0), q.last) - z));
  }
  cuda::store_pack(q.w_hat + r * q.cols + c, out);
}

}  // namespace

void weight_packs(Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
  constexpr unsigned kThreads = 256;
  const WeightArgs q = weight_args(w_hat, quantiser);
  const unsigned across = unsigned((q.cols / kPack + kThreads - 1) / kThreads);
  cuda::launch("weight_packs", ctx, {dim3(across, unsigned(q.rows)), kThreads}, kernel, q);
}

}  // namespace cbq::ladder
