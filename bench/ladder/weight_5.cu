// Fake quantisation of weights, rung 5: rung 4 without slow instructions. For |w| < 2^60 and 2^-60 <= s <= 2^60.
//
// What changes: the quotient is w (1/s) and one correction by its remainder, which gives the same bits as a division
// (the proof stands at fast_quotient in cuda/rounding_weight.cuh), and rounding is one addition and one subtraction of 1.5
// 2^23. The grid's ends are moved by z once a row.
//
// Prediction at (22016, 8192): 1.15 times rung 4, about 80 % of the copy rate: 20 instead of 30 instructions a weight.
// The kernel in cuda/rounding.cu, for offsets of every kind, asks for a row ahead of the one it works on, divides where
// the bounds above do not hold, and takes all rounders, groups and types.
#include "bench/ladder/weight.h"

namespace cbq::ladder {
namespace {

constexpr int kPack = 8, kWarps = 8, kTileRows = 64;
constexpr float kShifter = 0x1.8p23f;  // from here on floats are integers: the addition rounds to the nearest even one

struct Step {
  float s, inverse, low, high;
};

__global__ void __launch_bounds__(32 * kWarps) kernel(WeightArgs q) {
  __shared__ Step steps[kTileRows];
  __shared__ float left[kTileRows][kRank];
  const std::int64_t first = blockIdx.y * std::int64_t(kTileRows);
  const int rows = int(min(std::int64_t(kTileRows), q.rows - first));
  for (int i = int(threadIdx.x); i < rows; i += 32 * kWarps) {
    const float s = q.scale[first + i], z = q.zero[first + i];
    steps[i] = {s, 1 / s, -z, q.last - z};
    for (int k = 0; k < kRank; ++k) left[i][k] = q.a1[(first + i) * kRank + k];
  }
  __syncthreads();
  const std::int64_t c = (blockIdx.x * std::int64_t(32) + threadIdx.x % 32) * kPack;
  if (c >= q.cols) return;
  cuda::Pack<float, kPack> right[kRank];
#pragma unroll
  for (int k = 0; k < kRank; ++k) right[k] = cuda::load_pack<kPack>(q.a2 + k * q.cols + c);
  for (int i = int(threadIdx.x) / 32; i < rows; i += kWarps) {
    const Step step = steps[i];
    const cuda::Pack<bf16, kPack> w = cuda::load_pack<kPack>(q.w + (first + i) * q.cols + c);
    cuda::Pack<bf16, kPack> out;
#pragma unroll
    for (int n = 0; n < kPack; ++n) {
      float offset = 0;
#pragma unroll
      for (int k = 0; k < kRank; ++k) offset += left[i][k] * right[k].v[n];
      const float x = __bfloat162float(w.v[n]), near = x * step.inverse;
      const float ratio = fmaf(fmaf(-near, step.s, x), step.inverse, near);
      const float u = (ratio + offset + kShifter) - kShifter;
      out.v[n] = __float2bfloat16(step.s * fminf(fmaxf(u, step.low), step.high));
    }
    cuda::store_pack(q.w_hat + (first + i) * q.cols + c, out);
  }
}

}  // namespace

void weight_quotient(Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
  const WeightArgs q = weight_args(w_hat, quantiser);
  const dim3 tiles(unsigned((q.cols + 32 * kPack - 1) / (32 * kPack)), unsigned((q.rows + kTileRows - 1) / kTileRows));
  cuda::launch("weight_quotient", ctx, {tiles, 32 * kWarps}, kernel, q);
}

}  // namespace cbq::ladder
