// Fake quantisation of weights, rung 6: rung 5 with its whole tile in flight. For |w| < 2^60 and 2^-60 <= s <= 2^60.
//
// What changes: a lane starts the copies of all weights that it will round, 8 rows, to shared memory, and only then
// waits; it reads what it copied itself, so nobody waits for others. Rung 5 asks for a row when it is done with the
// last, which leaves 16 bytes a lane on their way.
//
// Prediction at (22016, 8192): 1.1 times rung 5, about 95 % of the copy rate. Result on an H100: 1.02 times, 79 %. What
// is left: every warp reads all of the tile's a2, 2.5 bytes a weight beside the floor of 4.
// In the kernel of cuda/rounding_factors.cu, which reaches 98 % there, a warp has 32 columns of its own and their part
// of a2 alone, and tensor cores multiply a1 a2; it takes all rounders and groups, and writes integers where wanted.
#include "bench/ladder/weight.h"
#include "cuda/mma.cuh"

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
  __shared__ uint4 held[kTileRows][32];  // 8 weights a lane and row
  const std::int64_t first = blockIdx.y * std::int64_t(kTileRows);
  const int rows = int(min(std::int64_t(kTileRows), q.rows - first));
  for (int i = int(threadIdx.x); i < rows; i += 32 * kWarps) {
    const float s = q.scale[first + i], z = q.zero[first + i];
    steps[i] = {s, 1 / s, -z, q.last - z};
    for (int k = 0; k < kRank; ++k) left[i][k] = q.a1[(first + i) * kRank + k];
  }
  __syncthreads();
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const std::int64_t c = (blockIdx.x * std::int64_t(32) + lane) * kPack;
  if (c >= q.cols) return;
  for (int i = warp; i < rows; i += kWarps)
    cuda::copy_async(cuda::shared_address(&held[i][lane]), q.w + (first + i) * q.cols + c);
  cuda::commit_copies();
  cuda::Pack<float, kPack> right[kRank];
#pragma unroll
  for (int k = 0; k < kRank; ++k) right[k] = cuda::load_pack<kPack>(q.a2 + k * q.cols + c);
  cuda::wait_copies();
  for (int i = warp; i < rows; i += kWarps) {
    const Step step = steps[i];
    const auto w = cuda::load_pack<kPack>(reinterpret_cast<const bf16*>(&held[i][lane]));
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

void weight_in_flight(Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
  const WeightArgs q = weight_args(w_hat, quantiser);
  const dim3 tiles(unsigned((q.cols + 32 * kPack - 1) / (32 * kPack)), unsigned((q.rows + kTileRows - 1) / kTileRows));
  cuda::launch("weight_in_flight", ctx, {tiles, 32 * kWarps}, kernel, q);
}

}  // namespace cbq::ladder
