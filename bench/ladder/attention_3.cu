// Causal attention, rung 3: tiles of 32 queries and 32 keys in shared memory.
//
// What changes: a block reads keys and values once for 32 queries. Its 16 x 16 threads (ty, tx) compute scores of rows
// ty, ty + 16 and columns tx, tx + 16, and of o rows ty, ty + 16 and columns 4 tx .. + 3 and 64 more: each value read
// from shared memory serves two rows. The softmax's bookkeeping is paid once a tile and not once a key.
//
// Prediction at T 2048, H 64: 2 times rung 2, 15 TFLOP/s. 16 multiply-adds take four reads of 16 bytes, and shared
// memory delivers those in 10 cycles where the multiply-adds take 4: 40 % of the 60 TFLOP/s of f32, less softmax and
// barriers.
#include "bench/ladder/attention.h"
#include "cuda/sum.cuh"

namespace cbq::ladder {
namespace {

constexpr int kSide = 16, kTile = 32, kStride = kDim + 4;  // + 4: 16-byte reads of eight rows lie in different banks

__device__ void load(float (*tile)[kStride], const AttentionArgs& a, const bf16* from, int head, int first) {
  __syncthreads();  // nobody reads the old tile any more
  for (int i = int(threadIdx.x); i < kTile * kDim; i += kSide * kSide)
    tile[i / kDim][i % kDim] = __bfloat162float(from[a.at(head, first + i / kDim) + i % kDim]);
  __syncthreads();
}

__global__ void __launch_bounds__(kSide* kSide) kernel(AttentionArgs a) {
  __shared__ __align__(16) float q[kTile][kStride], kv[kTile][kStride], p[kTile][kTile + 1];
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, head = int(blockIdx.y);
  const int query = int(gridDim.x - 1 - blockIdx.x) * kTile;  // the longest rows first
  float o[2][8] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  load(q, a, a.q, head, query);
  for (int key = 0; key <= query; key += kTile) {
    load(kv, a, a.k, head, key);
    float s[2][2] = {};
    for (int d = 0; d < kDim; d += 4)
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
          const float4 x = *reinterpret_cast<const float4*>(&q[ty + kSide * i][d]);
          const float4 y = *reinterpret_cast<const float4*>(&kv[tx + kSide * j][d]);
          s[i][j] += x.x * y.x + x.y * y.y + x.z * y.z + x.w * y.w;
        }
    for (int i = 0; i < 2; ++i) {  // a row belongs to the 16 threads of one half of a warp
      for (int j = 0; j < 2; ++j)
        s[i][j] = key + tx + kSide * j <= query + ty + kSide * i ? a.scale * s[i][j] : -INFINITY;
      float larger = fmaxf(max[i], fmaxf(s[i][0], s[i][1]));
      for (int lane = 8; lane > 0; lane /= 2) larger = fmaxf(larger, __shfl_xor_sync(cuda::kFullWarp, larger, lane));
      const float decay = expf(max[i] - larger);
      max[i] = larger, sum[i] *= decay;
      for (int j = 0; j < 2; ++j) sum[i] += p[ty + kSide * i][tx + kSide * j] = expf(s[i][j] - larger);
      for (float& x : o[i]) x *= decay;
    }
    load(kv, a, a.v, head, key);
    for (int k = 0; k < kTile; ++k)
      for (int half = 0; half < 2; ++half) {
        const float4 v = *reinterpret_cast<const float4*>(&kv[k][4 * tx + 64 * half]);
        for (int i = 0; i < 2; ++i) {
          const float f = p[ty + kSide * i][k];
          float* x = &o[i][4 * half];
          x[0] += f * v.x, x[1] += f * v.y, x[2] += f * v.z, x[3] += f * v.w;
        }
      }
  }
  for (int i = 0; i < 2; ++i) {
    const int row = query + ty + kSide * i;
    for (int lane = 8; lane > 0; lane /= 2) sum[i] += __shfl_xor_sync(cuda::kFullWarp, sum[i], lane);
    if (tx == 0) a.lse[std::int64_t(head) * a.tokens + row] = max[i] + logf(sum[i]);
    for (int n = 0; n < 8; ++n) a.o[a.at(head, row) + 4 * tx + n / 4 * 64 + n % 4] = __float2bfloat16(o[i][n] / sum[i]);
  }
}

}  // namespace

void attention_tiles(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  const AttentionArgs a = attention_args(o, lse, q, k, v, scale);
  cuda::launch("attention_tiles", ctx, {dim3(unsigned(a.tokens) / kTile, unsigned(a.head_count())), kSide * kSide},
               kernel, a);
}

}  // namespace cbq::ladder
