// Gradients of the quantised weight, and the regulariser that drives h to 0 or 1. Formulas of u, h, h':
// cuda/rounding.cuh.
//
//   m = 1 where -z <= u <= N - z, else 0, N = 2^bits - 1
//   dw = m dw_hat;  dscale = sum_group dw_hat (m (u - w/s) + (1-m) (q - z));  dzero = -s sum_group (1-m) dw_hat
//   doffset = m s du/dd dw_hat;  da1 = doffset a2^T;  da2 = a1^T doffset
//   L_com = mean(1 - |2h - 1|^beta);  dL_com/dd = -2 beta sign(2h-1) |2h-1|^(beta-1) h' / count
#include <limits>

#include "cuda/rounding.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

// ---- what one weight adds to the gradients

struct Gradient {
  float scale, zero, passed, offset;  // of dscale, of the sum in dzero, m dw_hat, doffset
};

// Of the quantised value; dy is dw_hat.
template <class T>
struct ValueTerm {
  Rows<const T> dw_hat;

  __device__ void start() {}
  template <class Walk>
  __device__ auto cursor(const Walk& walk) const {
    return walk.cursor(dw_hat);
  }
  template <int N>
  __device__ Gradient operator()(const Raw<T, N>& dw, int n, const Rounded& x, const Step& step) const {
    const float dy = dw[n], clipped = clip_nan(x.u, step.low, step.high);
    const bool inside = clipped == x.u;
    const float passed = inside ? dy : 0.0f;
    return {dy * (inside ? clipped - x.ratio : clipped), inside ? 0.0f : dy, passed, step.s * x.slope * passed};
  }
};

// |2h - 1|^exponent. Where h = 1/2 the smallest normal number stands for 0: beside the 1 it is taken from or the sign
// it is multiplied by, the result is the same.
__device__ float power_of_distance(float h, float exponent) {
  const float x = fabsf(2 * h - 1);
  return exp2f(exponent * log2f(x < 0x1p-126f ? 0x1p-126f : x));
}

// Of the regulariser, whose gradient dloss (1) lies on the device.
struct RegulariserTerm {
  const float* dloss;
  double minus_two_beta_over_count;
  float exponent;  // beta - 1
  float factor;

  __device__ void start() { factor = float(minus_two_beta_over_count * double(*dloss)); }
  template <class Walk>
  __device__ auto cursor(const Walk&) const {
    return NoCursor();
  }
  __device__ Gradient operator()(NoCursor::Nothing, int, const Rounded& x, const Step&) const {
    const float h = clip_nan(x.raw, 0, 1), sign = h > 0.5f ? 1.0f : h < 0.5f ? -1.0f : 0.0f;
    return {0, 0, 0, factor * sign * power_of_distance(h, exponent) * x.slope};
  }
};

// ---- sums over the columns of a row

// Sums value[j] over the warp: lane j * 32 / kCount ends with the sum of value[j]. Each exchange halves what a lane
// holds, so kCount values cost about as many shuffles instead of five each.
template <int kCount>
__device__ float transposed_sum(float (&value)[kCount]) {
  int mask = 16;
#pragma unroll
  for (int n = kCount / 2; n > 0; n /= 2, mask /= 2) {
    const bool upper = threadIdx.x & unsigned(mask);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const float sent = upper ? value[i] : value[i + n];
      value[i] = (upper ? value[i + n] : value[i]) + __shfl_xor_sync(kFullWarp, sent, mask);
    }
  }
#pragma unroll
  for (; mask > 0; mask /= 2) value[0] += __shfl_xor_sync(kFullWarp, value[0], mask);
  return value[0];
}

// Sums of a warp and a row: da1, then dscale and dzero.
template <int kOffset>
constexpr int kRankOf = kOffset > 0 ? kOffset : 0;
template <int kOffset>
constexpr int kRowSums = kRankOf<kOffset> == 0       ? 2
                         : kRankOf<kOffset> + 2 <= 8 ? 8
                                                     : 16;

// What the blocks leave for the finishing kernels. Null: not wanted.
struct Partials {
  float* row_sums;           // (column tiles, out, kRowSums); dscale and dzero are among them if group_lanes is 32
  float* group_sums;         // (out, sums_of_row, 2): dscale and dzero otherwise
  float* a2;                 // (row tiles, rank, in)
  int group_lanes;           // neighbouring lanes whose columns share a step: a power of 2
  std::int64_t sums_of_row;  // in / (group_lanes N)
};

// Where a lane leaves the sums of its warp for one row after the other.
template <int kSums, int N>
class RowSums {
 public:
  template <class Walk>
  __device__ RowSums(const Partials& partial, const Walk& walk) : partial_(partial) {
    const std::int64_t r = walk.first_row + threadIdx.x / 32, col_tile = blockIdx.x % walk.q.col_tiles;
    const unsigned lane = threadIdx.x % 32;
    if (partial.row_sums && lane % (32 / kSums) == 0)
      row_ = partial.row_sums + (col_tile * walk.q.w.rows + r) * kSums + lane / (32 / kSums);
    if (partial.group_sums && walk.active && lane % unsigned(partial.group_lanes) == 0)
      group_ = partial.group_sums + 2 * (r * partial.sums_of_row + walk.c / (partial.group_lanes * N));
  }

  // All lanes of the warp call it.
  __device__ void store(float (&sum)[kSums]) {
    const float total = transposed_sum(sum);
    if (row_) *row_ = total, row_ += kRoundWarps * kSums;
  }
  __device__ void store_group(float scale_sum, float zero_sum) {
    for (int mask = partial_.group_lanes / 2; mask > 0; mask /= 2) {
      scale_sum += __shfl_xor_sync(kFullWarp, scale_sum, mask);
      zero_sum += __shfl_xor_sync(kFullWarp, zero_sum, mask);
    }
    if (group_) group_[0] = scale_sum, group_[1] = zero_sum, group_ += 2 * kRoundWarps * partial_.sums_of_row;
  }

 private:
  const Partials& partial_;
  float *row_ = nullptr, *group_ = nullptr;  // null where another lane stores
};

// The da2 of the four warps of a block, one after the other, into the block's part of partial.a2.
template <int kRank, int N>
__device__ void store_column_sums(float* to, std::int64_t cols, bool active, const float (&sum)[kRank][N]) {
  __shared__ float total[kRank * N][32];
  const unsigned lane = threadIdx.x % 32;
#pragma unroll 1
  for (unsigned warp = 0; warp < kRoundWarps; ++warp) {
    if (threadIdx.x / 32 == warp) {
#pragma unroll
      for (int k = 0; k < kRank; ++k)
#pragma unroll
        for (int n = 0; n < N; ++n) total[k * N + n][lane] = warp == 0 ? sum[k][n] : total[k * N + n][lane] + sum[k][n];
    }
    __syncthreads();
  }
  if (threadIdx.x >= 32 || !active) return;
#pragma unroll
  for (int k = 0; k < kRank; ++k) {
    float row[N];
#pragma unroll
    for (int n = 0; n < N; ++n) row[n] = total[k * N + n][lane];
    store_floats(to + k * cols, row);
  }
}

// Blocks that a multiprocessor holds at once: as many as keep a2 and da2 in registers.
template <int kOffset, class T>
constexpr int kGradientBlocks = kOffset > kDefaultRank || sizeof(T) == 4 ? 2 : 3;

// The kernel of the default rank has no registers left for dw; where it is wanted the next one runs.
template <int kOffset>
constexpr bool kWritesDw = kOffset != kDefaultRank;

// Floor: w and dw_hat read, 4 bytes a bf16 weight; dw and ddense are written where they are wanted. da2 stays in
// registers over the rows of a warp and leaves the block once for 256 rows, so that the partial sums are 4 % of the
// traffic; those of a row leave the warp once for 256 columns, 3 %. A weight takes about 45 (straight_through) or 58
// (sigmoid) instructions at rank 5, 4 of them for the sums over the columns of a row.
template <Rounder kRounder, int kOffset, int N, class T, class Term>
__global__ void __launch_bounds__(kRoundThreads, kGradientBlocks<kOffset, T>)
    gradient_kernel(Rows<T> dw, Rows<float> ddense, Partials partial, Weights<T> weights, Term term) {
  __shared__ Tables<kOffset> tables;
  const TileWalk<kRounder, kOffset, N, T> walk(weights, tables);
  constexpr int kRank = kRankOf<kOffset>, kSums = kRowSums<kOffset>;
  float column_sum[kRank > 0 ? kRank : 1][N] = {};
  term.start();
  RowSums<kSums, N> row_sums(partial, walk);

  walk.each_row(term.cursor(walk), [&](const Place& at, const Rounded(&x)[N], const auto& raw) {
    float sum[kSums] = {}, passed[N], offset[N];
    if (walk.active) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const Gradient g = term(raw, n, x[n], at.step);
        sum[kRank] += g.scale, sum[kRank + 1] += g.zero;
        passed[n] = g.passed, offset[n] = g.offset;
        if constexpr (kRank > 0) {
#pragma unroll
          for (int k = 0; k < kRank; ++k) {
            sum[k] = fmaf(g.offset, walk.right[k][n], sum[k]);
            column_sum[k][n] = fmaf(g.offset, at.left[k], column_sum[k][n]);
          }
        }
      }
      if constexpr (kWritesDw<kOffset>)
        if (dw.data) store_floats(row_of(dw, at.r) + at.c, passed);
      if constexpr (kOffset == kDenseOffset)
        if (ddense.data) store_floats(row_of(ddense, at.r) + at.c, offset);
    }
    if (partial.group_sums) row_sums.store_group(sum[kRank], sum[kRank + 1]);
    if (partial.row_sums) row_sums.store(sum);
  });

  if constexpr (kRank > 0)
    if (partial.a2)
      store_column_sums(partial.a2 + walk.first_row / weights.tile_rows * kRank * weights.w.cols + walk.c,
                        weights.w.cols, walk.active, column_sum);
}

// ---- sums of the partial sums, in order; a thread an output

// y_rk = sum over tiles of partial (tiles, rows, sums).
__global__ void finish_a1_kernel(Rows<float> da1, const float* partial, std::int64_t tiles, int sums) {
  const std::int64_t count = da1.rows * da1.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / da1.cols, k = i - r * da1.cols;
    float sum = 0;
    for (std::int64_t t = 0; t < tiles; ++t) sum += partial[(t * da1.rows + r) * sums + k];
    row_of(da1, r)[k] = sum;
  }
}

// y_kc = factor times the sum over tiles of partial (tiles, rank, in), rank at least the rows of y.
__global__ void finish_a2_kernel(Rows<float> da2, const float* partial, std::int64_t tiles, int rank, float factor) {
  const std::int64_t count = da2.rows * da2.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t k = i / da2.cols, c = i - k * da2.cols;
    float sum = 0;
    for (std::int64_t t = 0; t < tiles; ++t) sum += partial[(t * rank + k) * da2.cols + c];
    row_of(da2, k)[c] = factor * sum;
  }
}

// Where the partial sums of a row and group lie: `per_group` of them `step` apart, the zero's behind the scale's.
struct GroupSums {
  const float* first;
  std::int64_t row_step, step, per_group;
};

__global__ void finish_grid_kernel(Rows<float> dscale, Rows<float> dzero, GroupSums partial, Rows<const float> scale) {
  const std::int64_t count = scale.rows * scale.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / scale.cols, g = i - r * scale.cols;
    const float* from = partial.first + r * partial.row_step + g * partial.per_group * partial.step;
    float scale_sum = 0, zero_sum = 0;
    for (std::int64_t p = 0; p < partial.per_group; ++p)
      scale_sum += from[p * partial.step], zero_sum += from[p * partial.step + 1];
    if (dscale.data) row_of(dscale, r)[g] = scale_sum;
    if (dzero.data) row_of(dzero, r)[g] = -row_of(scale, r)[g] * zero_sum;
  }
}

// ---- on the host

// Neighbouring lanes whose columns share a step, as Partials::group_lanes.
int group_lanes(std::int64_t group, std::int64_t groups, int columns_a_lane) {
  const std::int64_t lanes = group / columns_a_lane;
  if (groups == 1 || group % (32 * columns_a_lane) == 0) return 32;
  return lanes < 32 && group % columns_a_lane == 0 && (lanes & (lanes - 1)) == 0 ? int(lanes) : 1;
}

Storage float_scratch(Context& ctx, std::int64_t count) {
  return Storage(ctx.allocator, count * std::int64_t(sizeof(float)));
}

// Launches gradient_kernel and what adds up its partial sums.
template <Rounder kRounder, int kOffset, int N, class T, class Term>
void run_gradients(const char* name, Context& ctx, const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser,
                   const Term& term) {
  constexpr int kRank = kRankOf<kOffset>, kSums = kRowSums<kOffset>;
  const Weights<T> x = make_weights<T>(quantiser, N);
  const std::int64_t out = x.w.rows, in = x.w.cols;
  const int lanes = group_lanes(x.group, x.scale.cols, N);
  const bool grid_wanted = grads.scale || grads.zero, in_rows = grid_wanted && lanes == 32,
             in_groups = grid_wanted && lanes < 32;
  const Storage row_sums = float_scratch(ctx, in_rows || grads.a1 ? x.col_tiles * out * kSums : 0);
  const std::int64_t sums_of_row = in / (lanes * N);
  const Storage group_sums = float_scratch(ctx, in_groups ? out * sums_of_row * 2 : 0);
  const Storage a2 = float_scratch(ctx, grads.a2 ? row_tiles(x) * kRank * in : 0);
  const Partials partial{static_cast<float*>(row_sums.data()), static_cast<float*>(group_sums.data()),
                         static_cast<float*>(a2.data()), lanes, sums_of_row};
  launch(name, ctx, tile_shape(x), gradient_kernel<kRounder, kOffset, N, T, Term>, rows<T>(grads.w),
         rows<float>(grads.dense), partial, x, term);

  if (grads.a1)
    launch(name, ctx, shape_for(grads.a1.count()), finish_a1_kernel, rows<float>(grads.a1),
           static_cast<const float*>(partial.row_sums), x.col_tiles, kSums);
  if (grads.a2)
    launch(name, ctx, shape_for(grads.a2.count()), finish_a2_kernel, rows<float>(grads.a2),
           static_cast<const float*>(partial.a2), row_tiles(x), kRank, 1 / kOffsetUnit<kRounder>);
  if (grid_wanted) {
    const GroupSums sums =
        in_rows ? GroupSums{partial.row_sums + kRank, kSums, out * kSums, (x.group + 32 * N - 1) / (32 * N)}
                : GroupSums{partial.group_sums, sums_of_row * 2, 2, x.group / (lanes * N)};
    launch(name, ctx, shape_for(out * x.scale.cols), finish_grid_kernel, rows<float>(grads.scale),
           rows<float>(grads.zero), sums, x.scale);
  }
}

// The gradients of factors that dense_factors multiplied out, from that of the product.
void factor_gradients(Context& ctx, const WeightQuantiserGrads& grads, View doffset, const RoundingOffset& offset) {
  if (grads.a1) matmul(ctx, grads.a1, doffset, Trans::no, offset.a2, Trans::yes, {}, Write::set);
  if (grads.a2) matmul(ctx, grads.a2, offset.a1, Trans::yes, doffset, Trans::no, {}, Write::set);
}

// Gradients over no weights are zero.
void clear(Context& ctx, const WeightQuantiserGrads& grads) {
  for (const View& g : {grads.w, grads.scale, grads.zero, grads.dense, grads.a1, grads.a2})
    if (g) fill(ctx, g, 0);
}

// launch_with(made, inner): the gradients of `made`, a quantiser whose factors are at most kLargestRank.
template <class Launch>
void with_factors(Context& ctx, const WeightQuantiserGrads& grads, const WeightQuantiser& quantiser,
                  const Launch& launch_with) {
  if (quantiser.w.count() == 0) return clear(ctx, grads);
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, quantiser);
  if (!scratch) return launch_with(made, grads);
  // Each thread reads an element of the offset before it writes that of its gradient.
  WeightQuantiserGrads inner{grads.w, grads.scale, grads.zero, {}, {}, {}};
  if (grads.a1 || grads.a2) inner.dense = scratch;
  launch_with(made, inner);
  factor_gradients(ctx, grads, scratch, quantiser.offset);
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
template <int kOffset, int N, class T>
__global__ void __launch_bounds__(kRoundThreads) regulariser_kernel(double* of_block, Weights<T> weights, float beta) {
  __shared__ Tables<kOffset> tables;
  const TileWalk<Rounder::sigmoid, kOffset, N, T> walk(weights, tables);
  float sum = 0;
  walk.each_row(NoCursor(), [&](const Place&, const Rounded(&x)[N], NoCursor::Nothing) {
#pragma unroll
    for (int n = 0; n < N; ++n) sum += 1 - power_of_distance(clip_nan(x[n].raw, 0, 1), beta);
  });
  const double total = block_reduce<kRoundThreads>(walk.active ? double(sum) : 0.0, Sum());
  if (threadIdx.x == 0) of_block[blockIdx.x] = total;
}

struct WriteMean {
  float* y;
  double count;
  __device__ void operator()(double sum) const { *y = float(sum / count); }
};

}  // namespace

void quantise_weight_backward(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat,
                              const WeightQuantiser& quantiser) {
  with_factors(ctx, grads, quantiser, [&](const WeightQuantiser& made, const WeightQuantiserGrads& wanted) {
    dispatch_value(dw_hat.dtype, "quantise_weight_backward", [&]<class T>() {
      const bool packed = gradients_pack<T>(wanted, made) && packs_or_empty<T>(dw_hat);
      const std::int64_t least_rank = wanted.w ? kDefaultRank + 1 : 0;
      dispatch_offset(made.offset, least_rank, packed, [&]<int kOffset, int N>() {
        const auto run = [&]<Rounder kRounder>() {
          run_gradients<kRounder, kOffset, N, T>("quantise_weight_backward", ctx, wanted, made,
                                                 ValueTerm<T>{rows<const T>(dw_hat)});
        };
        switch (made.rounder) {
          case Rounder::straight_through: return run.template operator()<Rounder::straight_through>();
          case Rounder::sigmoid: return run.template operator()<Rounder::sigmoid>();
          case Rounder::sigmoid_hard: return run.template operator()<Rounder::sigmoid_hard>();
        }
      });
    });
  });
}

void rounding_regulariser_forward(Context& ctx, View loss, const WeightQuantiser& quantiser, double beta) {
  require_regularised(quantiser, beta);
  if (quantiser.w.count() == 0) return fill(ctx, loss, std::numeric_limits<double>::quiet_NaN());
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, quantiser);
  dispatch_value(made.w.dtype, "rounding_regulariser_forward", [&]<class T>() {
    dispatch_offset(made.offset, 0, inputs_pack<T>(made), [&]<int kOffset, int N>() {
      const Weights<T> x = make_weights<T>(made, N);
      const LaunchShape shape = tile_shape(x);
      const Storage storage(ctx.allocator, shape.blocks.x * std::int64_t(sizeof(double)));
      double* of_block = static_cast<double*>(storage.data());
      launch("rounding_regulariser_forward", ctx, shape, regulariser_kernel<kOffset, N, T>, of_block, x, float(beta));
      launch("rounding_regulariser_forward", ctx, {1, kSumThreads}, finish_sum_kernel<WriteMean>,
             static_cast<const double*>(of_block), std::int64_t(shape.blocks.x),
             WriteMean{elements<float>(loss), double(made.w.count())});
    });
  });
}

void rounding_regulariser_backward(Context& ctx, const WeightQuantiserGrads& grads, View dloss,
                                   const WeightQuantiser& quantiser, double beta) {
  require_regularised(quantiser, beta);
  if (!grads.dense && !grads.a1 && !grads.a2) return;
  const WeightQuantiserGrads offset_grads{{}, {}, {}, grads.dense, grads.a1, grads.a2};
  with_factors(ctx, offset_grads, quantiser, [&](const WeightQuantiser& made, const WeightQuantiserGrads& wanted) {
    const RegulariserTerm term{elements<const float>(dloss), -2 * beta / double(made.w.count()), float(beta - 1), 0};
    dispatch_value(made.w.dtype, "rounding_regulariser_backward", [&]<class T>() {
      dispatch_offset(made.offset, 0, gradients_pack<T>(wanted, made), [&]<int kOffset, int N>() {
        if constexpr (kOffset != kNoOffset)
          run_gradients<Rounder::sigmoid, kOffset, N, T>("rounding_regulariser_backward", ctx, wanted, made, term);
      });
    });
  });
}

}  // namespace cbq::cuda
