// What the rungs of weight quantisation share: their operands as plain pointers.
//   w_hat_rc = s_r (clip(u + z_r, 0, 2^bits - 1) - z_r),  u = round(w_rc / s_r + sum_k a1_rk a2_kc)
#pragma once

#include "bench/ladder/ladder.h"
#include "cuda/value.cuh"

namespace cbq::ladder {

using cuda::bf16;

constexpr int kRank = 5;

struct WeightArgs {
  bf16* w_hat;                          // (rows, cols)
  const bf16* w;                        // (rows, cols)
  const float *scale, *zero, *a1, *a2;  // (rows), (rows), (rows, kRank), (kRank, cols)
  float last;                           // 2^bits - 1
  std::int64_t rows, cols;
};

// Error failure for all but bf16, straight_through, one step a row, a product of rank 5 and columns in packs of 8.
inline WeightArgs weight_args(View w_hat, const WeightQuantiser& q) {
  require(q.rounder == Rounder::straight_through && q.w.dtype == DType::bf16 && q.grid.scale.cols() == 1 &&
              q.offset.a1.cols() == kRank && q.w.cols() % 8 == 0,
          "ladder: a rung takes bf16 weights in packs of 8, a step a row and an offset of rank 5, got ", q.w.shape);
  return {elements<bf16>(w_hat),
          elements<const bf16>(q.w),
          elements<const float>(q.grid.scale),
          elements<const float>(q.grid.zero),
          elements<const float>(q.offset.a1),
          elements<const float>(q.offset.a2),
          float((1 << q.grid.bits) - 1),
          q.w.rows(),
          q.w.cols()};
}

}  // namespace cbq::ladder
