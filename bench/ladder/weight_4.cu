// Fake quantisation of weights, rung 4: tiles of 64 rows, a2 in registers.
//
// What changes: a lane keeps its 8 columns of a2, 40 registers, while its warp walks down the rows of a tile; the rows'
// steps and a1 lie in shared memory, read by all lanes at once.
//
// Prediction at (22016, 8192): 1.25 times rung 3, about 70 % of the copy rate. A weight's traffic beside the floor
// falls from 20 bytes to 2.5, for 8 rows a warp. What is left: a division is about ten instructions, rintf runs at an
// eighth of the rate of an addition, and a warp asks for a row only when it is done with the last.
#include "bench/ladder/weight.h"

namespace cbq::ladder {
namespace {

constexpr int kPack = 8, kWarps = 8, kTileRows = 64;

__global__ void __launch_bounds__(32 * kWarps) kernel(WeightArgs q) {
  __shared__ float step[kTileRows], zero[kTileRows], left[kTileRows][kRank];
  const std::int64_t first = blockIdx.y * std::int64_t(kTileRows);
  const int rows = int(min(std::int64_t(kTileRows), q.rows - first));
  for (int i = int(threadIdx.x); i < rows; i += 32 * kWarps) {
    step[i] = q.scale[first + i], zero[i] = q.zero[first + i];
    for (int k = 0; k < kRank; ++k) left[i][k] = q.a1[(first + i) * kRank + k];
  }
  __syncthreads();
  const std::int64_t c = (blockIdx.x * std::int64_t(32) + threadIdx.x % 32) * kPack;
  if (c >= q.cols) return;
  cuda::Pack<float, kPack> right[kRank];
#pragma unroll
  for (int k = 0; k < kRank; ++k) right[k] = cuda::load_pack<kPack>(q.a2 + k * q.cols + c);
  for (int i = int(threadIdx.x) / 32; i < rows; i += kWarps) {
    const float s = step[i], z = zero[i];
    const cuda::Pack<bf16, kPack> w = cuda::load_pack<kPack>(q.w + (first + i) * q.cols + c);
    cuda::Pack<bf16, kPack> out;
#pragma unroll
    for (int n = 0; n < kPack; ++n) {
      float offset = 0;
#pragma unroll
      for (int k = 0; k < kRank; ++k) offset += left[i][k] * right[k].v[n];
      const float u = rintf(__bfloat162float(w.v[n]) / s + offset);
      out.v[n] = __float2bfloat16(s * (fminf(fmaxf(u + z, 0), q.last) - z));
    }
    cuda::store_pack(q.w_hat + (first + i) * q.cols + c, out);
  }
}

}  // namespace

void weight_tiles(Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
  const WeightArgs q = weight_args(w_hat, quantiser);
  const dim3 tiles(unsigned((q.cols + 32 * kPack - 1) / (32 * kPack)), unsigned((q.rows + kTileRows - 1) / kTileRows));
  cuda::launch("weight_tiles", ctx, {tiles, 32 * kWarps}, kernel, q);
}

}  // namespace cbq::ladder
