// Gradients of the quantised weight, and the regulariser that drives h to 0 or 1. Formulas of u, h, h':
// cuda/rounding_weight.cuh.
//
//   m = 1 where -z <= u <= N - z, else 0, N = 2^bits - 1
//   dw = m s/s0 dw_hat;  dscale = sum_group dw_hat (q - z - m w/s);  dzero = -s sum_group (1-m) dw_hat
//   where m w/s of dscale is left out when u is decided on a start_scale, which s does not move
//   doffset = m s du/dd dw_hat;  da1 = doffset a2^T;  da2 = a1^T doffset
//   L_com = mean(1 - |2h - 1|^beta);  dL_com/dd = -2 beta sign(2h-1) |2h-1|^(beta-1) h' / count
#include <limits>

#include "cuda/rounding_factors.h"
#include "cuda/rounding_sums.cuh"
#include "cuda/rounding_terms.cuh"
#include "cuda/rounding_walk.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

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

  const auto gradient = [&] {
    if constexpr (Term::kReadsGradient)
      return walk.cursor(dw_hat);
    else
      return NoCursor();
  }();
  walk.each_row(gradient, [&](const Place& at, const Rounded(&x)[N], const auto& dy) {
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
void run_gradients(const char* name, Context& ctx, const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser,
                   View dw_hat, const Term& term) {
  const Weights<T> x = make_weights<T>(quantiser, N);
  const int lanes = group_lanes(x.group, x.scale.cols, N);
  const std::int64_t width = std::int64_t(lanes) * N, sums_of_row = (x.w.cols + width - 1) / width;
  const auto scratch = [&](const View& wanted) {
    return Storage(ctx.allocator, wanted ? x.w.rows * sums_of_row * std::int64_t(sizeof(float)) : 0);
  };
  const Storage scale = scratch(grads.scale), zero = scratch(grads.zero);
  const GroupSums sums{static_cast<float*>(scale.data()), static_cast<float*>(zero.data()), lanes, sums_of_row};
  launch(name, ctx, tile_shape(x), gradient_kernel<kRounder, kOffset, N, T, Term>, rows<T>(grads.w),
         rows<float>(grads.dense), sums, x, rows<const T>(dw_hat), term);

  const std::int64_t per_group = (x.group + width - 1) / width;
  finish_sums(name, ctx,
              {{rows<float>(grads.scale), sums.scale, sums_of_row, per_group, 1, per_group, nullptr},
               {rows<float>(grads.zero), sums.zero, sums_of_row, per_group, 1, per_group,
                elements<const float>(quantiser.grid.scale)}});
}

// Gradients over no weights are zero.
void clear(Context& ctx, const WeightQuantiserGrads& grads) {
  for (const View& g : {grads.w, grads.scale, grads.zero, grads.dense, grads.a1, grads.a2})
    if (g) fill(ctx, g, 0);
}

// launch_with(made, inner): the gradients of `made`, a quantiser without factors.
template <class Launch>
void without_factors(Context& ctx, const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser,
                     const Launch& launch_with) {
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, quantiser);
  if (!scratch) return launch_with(made, grads);
  // Each thread reads an element of the offset before it writes that of its gradient.
  WeightQuantiserGrads inner{grads.w, grads.scale, grads.zero, {}, {}, {}};
  if (grads.a1 || grads.a2) inner.dense = scratch;
  launch_with(made, inner);
  if (grads.a1) matmul(ctx, grads.a1, scratch, Trans::no, quantiser.offset.a2, Trans::yes, {}, {});
  if (grads.a2) matmul(ctx, grads.a2, quantiser.offset.a1, Trans::yes, scratch, Trans::no, {}, {});
}

template <class T>
bool gradients_pack(const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser) {
  return inputs_pack<T>(quantiser) && packs_or_empty<T>(grads.w) && packs_or_empty<float>(grads.dense);
}

void require_regularised(const WeightQuantiser& quantiser, double beta) {
  require(quantiser.rounder != Rounder::straight_through, "rounding_regulariser: expected a sigmoid rounder");
  require(beta >= 1, "rounding_regulariser: beta must be at least 1, got ", beta);
}

// Floor: w read. The sum of a thread is over at most 64 rows of its columns, in float; across threads in double.
template <Offset kOffset, int N, class T>
__global__ void __launch_bounds__(kRoundThreads) regulariser_kernel(double* of_block, Weights<T> weights, float beta) {
  __shared__ StoredStep steps[kTileSteps];
  const TileWalk<Rounder::sigmoid, kOffset, N, T> walk(weights, steps);
  float sum = 0;
  walk.each_row(NoCursor(), [&](const Place&, const Rounded(&x)[N], NoCursor::Nothing) {
#pragma unroll
    for (int n = 0; n < N; ++n) sum += 1 - power_of_distance(clip_nan(x[n].raw, 0, 1), beta);
  });
  const double total = block_reduce<kRoundThreads>(walk.active ? double(sum) : 0.0, Sum());
  if (threadIdx.x == 0) of_block[blockIdx.x] = total;
}

}  // namespace

void quantise_weight_backward(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat,
                              const WeightQuantiser& quantiser) {
  if (quantiser.w.count() == 0) return clear(ctx, grads);
  if (takes_factors(quantiser)) return factor_gradients(ctx, grads, dw_hat, quantiser);
  without_factors(ctx, grads, quantiser, [&](const WeightQuantiser& made, const WeightQuantiserGrads& wanted) {
    dispatch_value(dw_hat.dtype, "quantise_weight_backward", [&]<class T>() {
      const bool packed = gradients_pack<T>(wanted, made) && packs_or_empty<T>(dw_hat);
      dispatch_offset(made.offset, packed, [&]<Offset kOffset, int N>() {
        dispatch_rounder(made.rounder, [&]<Rounder kRounder>() {
          run_gradients<kRounder, kOffset, N, T>("quantise_weight_backward", ctx, wanted, made, dw_hat,
                                                 value_term(made));
        });
      });
    });
  });
}

void rounding_regulariser_forward(Context& ctx, View loss, const WeightQuantiser& quantiser, double beta) {
  require_regularised(quantiser, beta);
  if (quantiser.w.count() == 0) return fill(ctx, loss, std::numeric_limits<double>::quiet_NaN());
  if (takes_factors(quantiser)) return factor_regulariser(ctx, loss, quantiser, beta);
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, quantiser);
  dispatch_value(made.w.dtype, "rounding_regulariser_forward", [&]<class T>() {
    dispatch_offset(made.offset, inputs_pack<T>(made), [&]<Offset kOffset, int N>() {
      const Weights<T> x = make_weights<T>(made, N);
      const LaunchShape shape = tile_shape(x);
      const Storage of_block(ctx.allocator, shape.blocks.x * std::int64_t(sizeof(double)));
      launch("rounding_regulariser_forward", ctx, shape, regulariser_kernel<kOffset, N, T>,
             static_cast<double*>(of_block.data()), x, float(beta));
      finish_mean("rounding_regulariser_forward", ctx, loss, of_block, made.w.count());
    });
  });
}

void rounding_regulariser_backward(Context& ctx, const WeightQuantiserGrads& grads, View dloss,
                                   const WeightQuantiser& quantiser, double beta) {
  require_regularised(quantiser, beta);
  if (!grads.dense && !grads.a1 && !grads.a2) return;
  const WeightQuantiserGrads offset_grads{{}, {}, {}, grads.dense, grads.a1, grads.a2};
  if (quantiser.w.count() == 0) return clear(ctx, offset_grads);
  const RegulariserTerm term{elements<const float>(dloss), -2 * beta / double(quantiser.w.count()), float(beta - 1), 0};
  if (takes_factors(quantiser)) return factor_regulariser_gradients(ctx, offset_grads, quantiser, term);
  without_factors(ctx, offset_grads, quantiser, [&](const WeightQuantiser& made, const WeightQuantiserGrads& wanted) {
    dispatch_value(made.w.dtype, "rounding_regulariser_backward", [&]<class T>() {
      dispatch_offset(made.offset, gradients_pack<T>(wanted, made), [&]<Offset kOffset, int N>() {
        if constexpr (kOffset == Offset::dense)
          run_gradients<Rounder::sigmoid, kOffset, N, T>("rounding_regulariser_backward", ctx, wanted, made, View(),
                                                         term);
      });
    });
  });
}

}  // namespace cbq::cuda
