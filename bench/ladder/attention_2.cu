// Causal attention, rung 2: a warp a query, and no scores in memory.
//
// What changes: the softmax is computed online (Milakov & Gimelshein 2018; FlashAttention, Dao 2022). With m the
// largest score so far, l = sum exp(s - m) and o = sum exp(s - m) v; when m grows to m', l and o are multiplied by
// exp(m - m'). A lane holds 4 of the 128 columns of q and o, so that a warp reads a key or a value as 256 neighbouring
// bytes.
//
// Prediction at T 2048, H 64: 10 times rung 1, 7 TFLOP/s. No traffic of scores, and whole sectors of keys. What is
// left: every key costs ten instructions of shuffles and two exponentials for 8 multiply-adds a lane, and each query
// reads all its keys and values from L2 for itself: 68 GB.
#include "bench/ladder/attention.h"
#include "cuda/sum.cuh"

namespace cbq::ladder {
namespace {

constexpr int kWarps = 4, kColumns = kDim / 32;

__device__ void load(float (&x)[kColumns], const bf16* row) {
  const cuda::Pack<bf16, kColumns> pack = cuda::load_pack<kColumns>(row + threadIdx.x % 32 * kColumns);
#pragma unroll
  for (int n = 0; n < kColumns; ++n) x[n] = __bfloat162float(pack.v[n]);
}

__global__ void kernel(AttentionArgs a) {
  const int query = int(blockIdx.x * kWarps + threadIdx.x / 32), head = int(blockIdx.y), lane = int(threadIdx.x % 32);
  float q[kColumns], k[kColumns], v[kColumns], o[kColumns] = {}, max = -INFINITY, sum = 0;
  load(q, a.q + a.at(head, query));
  for (int key = 0; key <= query; ++key) {
    load(k, a.k + a.at(head, key));
    load(v, a.v + a.at(head, key));
    float part = 0;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) part += q[n] * k[n];
    const float score = a.scale * cuda::warp_reduce(part, cuda::Sum());
    const float larger = fmaxf(max, score), decay = expf(max - larger), p = expf(score - larger);
    max = larger;
    sum = sum * decay + p;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) o[n] = o[n] * decay + p * v[n];
  }
  cuda::Pack<bf16, kColumns> out;
#pragma unroll
  for (int n = 0; n < kColumns; ++n) out.v[n] = __float2bfloat16(o[n] / sum);
  cuda::store_pack(a.o + a.at(head, query) + lane * kColumns, out);
  if (lane == 0) a.lse[std::int64_t(head) * a.tokens + query] = max + logf(sum);
}

}  // namespace

void attention_online(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  const AttentionArgs a = attention_args(o, lse, q, k, v, scale);
  cuda::launch("attention_online", ctx, {dim3(unsigned(a.tokens) / kWarps, unsigned(a.head_count())), 32 * kWarps},
               kernel, a);
}

}  // namespace cbq::ladder
