// What the rungs of causal attention share: their operands as plain pointers.
//   o = softmax(scale q k^T + causal mask) v,  lse = log sum exp of the masked scores
#pragma once

#include "bench/ladder/ladder.h"
#include "cuda/value.cuh"

namespace cbq::ladder {

using cuda::bf16;

constexpr int kDim = 128;

struct AttentionArgs {
  bf16* o;     // (B, T, H, kDim), as q, k and v
  float* lse;  // (B, H, T)
  const bf16 *q, *k, *v;
  int batch, tokens, heads;
  float scale;

  std::int64_t head_count() const { return std::int64_t(batch) * heads; }
  // Row t of head h of the batch's head_count() is data + at(h, t).
  __device__ std::int64_t at(int h, int t) const {
    return ((std::int64_t(h / heads) * tokens + t) * heads + h % heads) * kDim;
  }
};

// Error failure for all but contiguous bf16, as many key heads as query heads, 128 columns and tokens in tiles of 64.
inline AttentionArgs attention_args(View o, View lse, View q, View k, View v, double scale) {
  require(q.dtype == DType::bf16 && q.shape == k.shape && q.shape[3] == kDim && q.shape[1] % 64 == 0 && lse,
          "ladder: a rung takes bf16 heads of 128 columns, as many keys as queries and a multiple of 64, got ", q.shape,
          " and ", k.shape);
  return {elements<bf16>(o),       elements<float>(lse),    elements<const bf16>(q),
          elements<const bf16>(k), elements<const bf16>(v), int(q.shape[0]),
          int(q.shape[1]),         int(q.shape[2]),         float(scale)};
}

}  // namespace cbq::ladder
