// Gradients of the quantised weight, and of the regulariser that drives h to 0 or 1. Formulas of u, h, h':
// cuda/rounding_weight.cuh.
//
//   m = 1 where -z <= u <= N - z, else 0, N = 2^bits - 1
//   dw = m s/s0 dw_hat;  dscale = sum_group dw_hat (q - z - m w/s);  dzero = -s sum_group (1-m) dw_hat
//   where m w/s of dscale is left out when u is decided on a start_scale, which s does not move
//   doffset = m s du/dd dw_hat + lambda dL_com/dd;  da1 = doffset a2^T;  da2 = a1^T doffset
//   L_com = mean(1 - |2h - 1|^beta);  dL_com/dd = -2 beta sign(2h-1) |2h-1|^(beta-1) h' / count
#include "cuda/rounding_factors.h"
#include "cuda/rounding_sums.cuh"
#include "cuda/rounding_terms.cuh"
#include "cuda/rounding_walk.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

constexpr const char* kName = "quantise_weight_backward";

// What the blocks leave for finish_sums: dscale and the sum in dzero of every `group_lanes` neighbouring lanes, whose
// columns share a step, in each row.
struct GroupSums {
  float* scale;              // (out, sums_of_row), or null
  float* zero;               // the same
  int group_lanes;           // a power of 2
  std::int64_t sums_of_row;  // columns a row / (group_lanes N), rounded up
};

// Floor: w and dw_hat read, 4 bytes a bf16 weight; dense is read, dw and ddense are written where they are wanted.
template <Rounder kRounder, Offset kOffset, int N, class T, class Term>
__global__ void __launch_bounds__(kRoundThreads) gradient_kernel(Rows<T> dw, Rows<float> ddense, GroupSums sums,
                                                                 Weights<T> weights, Rows<const T> dw_hat, Term term) {
  __shared__ StoredStep steps[kTileSteps];
  const TileWalk<kRounder, kOffset, N, T> walk(weights, steps);
  term.start();
  const std::int64_t sum_of_row = walk.c / (sums.group_lanes * N);
  const bool stores = walk.active && threadIdx.x % unsigned(sums.group_lanes) == 0;
  const auto store_sum = [&](float* to, std::int64_t r, float sum) {
    for (int mask = sums.group_lanes / 2; mask > 0; mask /= 2) sum += __shfl_xor_sync(kFullWarp, sum, mask);
    if (stores) to[r * sums.sums_of_row + sum_of_row] = sum;
  };

  walk.each_row(walk.cursor(dw_hat), [&](const Place& at, const Rounded(&x)[N], const Raw<T, N>& dy) {
    float scale_sum = 0, zero_sum = 0;
    if (walk.active) {
      float passed[N], offset[N];
      const float per_w = dw.data ? at.step.s / at.step.s0 : 0.0f;
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const Passed p = term(x[n], dy[n], at.step);
        scale_sum += p.scale, zero_sum += p.zero;
        passed[n] = per_w * p.passed, offset[n] = Term::unit(at.step.s) * p.offset;
      }
      if (dw.data) store_floats(row_of(dw, at.r) + at.c, passed);
      if constexpr (kOffset == Offset::dense)
        if (ddense.data) store_floats(row_of(ddense, at.r) + at.c, offset);
    }
    if (sums.scale) store_sum(sums.scale, at.r, scale_sum);
    if (sums.zero) store_sum(sums.zero, at.r, zero_sum);
  });
}

// ---- on the host

// Neighbouring lanes whose columns share a step, as GroupSums::group_lanes.
int group_lanes(std::int64_t group, std::int64_t groups, int columns_a_lane) {
  const std::int64_t lanes = group / columns_a_lane;
  if (groups == 1 || group % (32 * columns_a_lane) == 0) return 32;
  return lanes < 32 && group % columns_a_lane == 0 && (lanes & (lanes - 1)) == 0 ? int(lanes) : 1;
}

// Launches gradient_kernel and what adds up its partial sums.
template <Rounder kRounder, Offset kOffset, int N, class T, class Term>
void run_gradients(Context& ctx, const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser, View dw_hat,
                   const Term& term) {
  const Weights<T> x = make_weights<T>(quantiser, N);
  const int lanes = group_lanes(x.group, x.scale.cols, N);
  const std::int64_t width = std::int64_t(lanes) * N, sums_of_row = (x.w.cols + width - 1) / width;
  const auto scratch = [&](const View& wanted) {
    return Storage(ctx.allocator, wanted ? x.w.rows * sums_of_row * std::int64_t(sizeof(float)) : 0);
  };
  const Storage scale = scratch(grads.scale), zero = scratch(grads.zero);
  const GroupSums sums{static_cast<float*>(scale.data()), static_cast<float*>(zero.data()), lanes, sums_of_row};
  launch(kName, ctx, tile_shape(x), gradient_kernel<kRounder, kOffset, N, T, Term>, rows<T>(grads.w),
         rows<float>(grads.dense), sums, x, rows<const T>(dw_hat), term);

  const std::int64_t per_group = (x.group + width - 1) / width;
  finish_sums(kName, ctx,
              {{rows<float>(grads.scale), sums.scale, sums_of_row, per_group, 1, per_group, nullptr},
               {rows<float>(grads.zero), sums.zero, sums_of_row, per_group, 1, per_group,
                elements<const float>(quantiser.grid.scale)}});
}

// Gradients over no weights are zero.
void clear(Context& ctx, const WeightQuantiserGrads& grads) {
  for (const View& g : {grads.w, grads.scale, grads.zero, grads.dense, grads.a1, grads.a2})
    if (g) fill(ctx, g, 0);
}

template <class T>
bool gradients_pack(const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser) {
  return inputs_pack<T>(quantiser) && packs_or_empty<T>(grads.w) && packs_or_empty<float>(grads.dense);
}

}  // namespace

void quantise_weight_backward(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat,
                              const WeightQuantiser& quantiser) {
  if (quantiser.w.count() == 0) return clear(ctx, grads);
  if (takes_factors(quantiser)) return factor_gradients(ctx, grads, dw_hat, quantiser);
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, quantiser);
  WeightQuantiserGrads wanted = grads;
  // Each thread reads an element of the offset before it writes that of its gradient.
  if (grads.a1 || grads.a2) wanted.dense = scratch;
  dispatch_value(dw_hat.dtype, kName, [&]<class T>() {
    const bool packed = gradients_pack<T>(wanted, made) && packs_or_empty<T>(dw_hat);
    dispatch_offset(made.offset, packed, [&]<Offset kOffset, int N>() {
      dispatch_term(made, [&]<Rounder kRounder>(const auto& term) {
        run_gradients<kRounder, kOffset, N, T>(ctx, wanted, made, dw_hat, term);
      });
    });
  });
  if (grads.a1) matmul(ctx, grads.a1, scratch, Trans::no, quantiser.offset.a2, Trans::yes, {}, {});
  if (grads.a2) matmul(ctx, grads.a2, quantiser.offset.a1, Trans::yes, scratch, Trans::no, {}, {});
}

}  // namespace cbq::cuda
