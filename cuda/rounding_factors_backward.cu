// Gradients of weights with a low-rank offset; formulas in cuda/rounding_backward.cu, the layout in
// cuda/rounding_factors.cuh.
#include "cuda/rounding_factors.h"
#include "cuda/rounding_factors_launch.cuh"
#include "cuda/rounding_sums.cuh"
#include "cuda/rounding_terms.cuh"

namespace cbq::cuda {
namespace {

// What the blocks leave for finish_sums. Kinds of sums of a row: da1, then dscale and the sum in dzero.
struct FactorSums {
  float* rows;    // (column tiles, rank + 2, out)
  float* groups;  // (2, out, in/32): dscale and the sum in dzero where a tile's columns have several steps
  float* a2;      // (row tiles, rank, in)
};

// What runs use, or all that quantise_weight_backward can be asked for, for which 128 registers do not always suffice.
enum class Wanted { factors_and_scale, everything };

// a1 times the unit of the gradient: a thread a pair of rows and two ranks.
template <class Term, class Tile>
__device__ void fill_scaled(const Tile& tile) {
  const FactorWeights& q = tile.q;
  for (int i = int(threadIdx.x); i < 2 * q.tile_rows; i += kFactorThreads) {
    const int row = i / 4 * 2, k = i % 4 * 2;
    const auto a1 = [&](int r, int rank) {
      return r < tile.rows && rank < q.a1.cols ? row_of(q.a1, tile.first_row + r)[rank] : 0.0f;
    };
    const float first[2] = {a1(row, k), a1(row + 1, k)}, second[2] = {a1(row, k + 1), a1(row + 1, k + 1)};
    for (int group = 0; group < q.tile_groups; ++group) {
      const StoredStep* steps = tile.tables.steps + group * q.tile_rows + row;
      const float unit[2] = {Term::unit(steps[0].s), Term::unit(steps[1].s)};
      uint4* quad = tile.tables.scaled + 2 * group * q.tile_rows + row / kStepRows * 32 + k * 4 + row % 8 / 2;
      const int upper = row % kStepRows / 8;
      const Halves a = split(unit[0] * first[0], unit[1] * first[1]),
                   b = split(unit[0] * second[0], unit[1] * second[1]);
      reinterpret_cast<uint2*>(quad)[upper] = make_uint2(a.high, a.low);
      reinterpret_cast<uint2*>(quad + 4)[upper] = make_uint2(b.high, b.low);
    }
  }
}

// a2 as A of da1: block i contracts over columns 4i .. 4i+3 of each lane.
template <class Tile>
__device__ void load_right(FragmentA (&right)[2], const Tile& tile) {
#pragma unroll
  for (int i = 0; i < 2; ++i) right[i][0] = right[i][1] = right[i][2] = right[i][3] = 0;
  if (tile.g >= tile.q.a2.rows || !tile.active) return;
  const float* from = row_of(tile.q.a2, tile.g) + tile.c;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Halves first = split(from[4 * i], from[4 * i + 1]), second = split(from[4 * i + 2], from[4 * i + 3]);
    right[i][0] = first.high, right[i][1] = first.low, right[i][2] = second.high, right[i][3] = second.low;
  }
}

// Floor: w and dw_hat read, 4 bytes a weight; partial sums add 5 %.
template <Rounder kRounder, Wanted kWanted, class Term>
__global__ void __launch_bounds__(kFactorThreads, kWanted == Wanted::everything ? 1 : 2)
    gradient_kernel(Rows<bf16> dw, FactorSums partial, FactorWeights weights, Rows<const bf16> dw_hat, Term term) {
  constexpr bool kEverything = kWanted == Wanted::everything;
  constexpr int kParts = kRounder == Rounder::straight_through ? 1 : 2;  // bf16 that hold doffset / unit
  await_previous();
  extern __shared__ uint4 shared[];
  const FactorTile<kRounder> tile(weights, shared, Scaled::yes);
  tile.prefetch();
  tile.fill_tables();
  const int g = tile.g, t = tile.t, rank = int(weights.a1.cols), kinds = rank + 2;
  const int stride = sums_stride(weights.tile_rows);
  float* const sums = tile.tables.sums + tile.warp * kinds * stride;
  const std::uint32_t da1_at = keep(shared_address(sums + g * stride + 2 * t)),
                      scale_at = keep(shared_address(sums + rank * stride + g));
  term.start();
  FragmentA right[2];
  load_right(right, tile);
  __syncthreads();  // fill_scaled reads the steps
  fill_scaled<Term>(tile);
  __syncthreads();

  FragmentC da2[4] = {};  // block j: columns 8t + 2j, 8t + 2j + 1
  tile.each_step(dw_hat, [&](int row, const FragmentC(&d)[4], const StepPacks& w, const StepPacks& dy) {
    std::uint32_t transposed[kParts][2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = row + 8 * half;
      const Step step = tile.step_of(first);
      Rounded x[8];
      tile.round_row(x, step, w[half], d, half);
      float scale_sum = 0, zero_sum = 0, passed[8], offset[8];
      const float per_w = kEverything ? step.s / step.s0 : 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const Passed p = term(x[n], dy[half][n], step);
        scale_sum += p.scale, offset[n] = p.offset;
        if constexpr (kEverything) zero_sum += p.zero, passed[n] = per_w * p.passed;
      }
      if constexpr (kEverything)
        if (dw.data && tile.active && first + g < tile.rows)
          store_floats(row_of(dw, tile.first_row + first + g) + tile.c, passed);

      std::uint32_t word[kParts][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if constexpr (kParts == 1) {
          word[0][j] = __byte_perm(__float_as_uint(offset[2 * j]), __float_as_uint(offset[2 * j + 1]), 0x7632);
        } else {
          const Halves both = split(offset[2 * j], offset[2 * j + 1]);
          word[0][j] = both.high, word[1][j] = both.low;
        }
      }
      FragmentC da1 = {};  // rank g of rows 2t, 2t + 1
#pragma unroll
      for (int part = 0; part < kParts; ++part) {
#pragma unroll
        for (int i = 0; i < 2; ++i) multiply_add(da1, right[i], word[part][2 * i], word[part][2 * i + 1]);
#pragma unroll
        for (int j = 0; j < 4; ++j) transposed[part][half][j] = transpose_matrix(word[part][j]);
      }
      if (g < rank) store_floats(da1_at + 4 * unsigned(first), da1[0] + da1[2], da1[1] + da1[3]);
      const auto sum_row = [&](float sum, int kind) {
        sum = tile.active ? sum : 0.0f;
        sum += __shfl_xor_sync(kFullWarp, sum, 1);
        sum += __shfl_xor_sync(kFullWarp, sum, 2);
        if (t == 0) store_float(scale_at + 4 * unsigned(kind * stride + first), sum);
      };
      sum_row(scale_sum, 0);
      if constexpr (kEverything) sum_row(zero_sum, 1);
    }
    const uint4 quad = tile.scaled_of(row);
    const FragmentA left = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int part = 0; part < kParts; ++part)
        multiply_add(da2[j], left, transposed[part][0][j], transposed[part][1][j]);
  });

  // da2 of the tile's rows: the warp's own columns.
  if (partial.a2 && g < rank && tile.active) {
    float sum[8];
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[2 * j] = da2[j][0] + da2[j][2], sum[2 * j + 1] = da2[j][1] + da2[j][3];
    store_floats(partial.a2 + (std::int64_t(tile.row_tile) * rank + g) * weights.w.cols + tile.c, sum);
  }
  // Sums of the rows: over the warps, or of each.
  __syncthreads();
  const std::int64_t out = weights.w.rows, warps_of_row = weights.w.cols / kWarpColumns;
  const int kinds_wanted = kEverything ? kinds : kinds - 1;
  for (int row = int(threadIdx.x); row < tile.rows; row += kFactorThreads) {
    float unit[kFactorWarps];
#pragma unroll
    for (int warp = 0; warp < kFactorWarps; ++warp)
      unit[warp] = Term::unit(tile.tables.steps[tile.group_of(warp) * weights.tile_rows + row].s);
    const float* from = tile.tables.sums + row;
    float* to = partial.rows + std::int64_t(tile.col_tile) * kinds * out + tile.first_row + row;
    for (int kind = 0; kind < kinds_wanted; ++kind, from += stride, to += out) {
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < kFactorWarps; ++warp)
        sum = fmaf(kind < rank ? unit[warp] : 1.0f, from[warp * kinds * stride], sum);
      *to = sum;
    }
  }
  const int warp = int(threadIdx.x % kFactorWarps);
  const std::int64_t of_row = std::int64_t(tile.col_tile) * kFactorWarps + warp;
  if (!partial.groups || of_row >= warps_of_row) return;
  for (int row = int(threadIdx.x / kFactorWarps); row < tile.rows; row += kFactorThreads / kFactorWarps)
    for (int kind = rank; kind < kinds_wanted; ++kind)
      partial.groups[((kind - rank) * out + tile.first_row + row) * warps_of_row + of_row] =
          tile.tables.sums[(warp * kinds + kind) * stride + row];
}

template <Rounder kRounder, class Term>
void run_gradients(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat, const FactorWeights& x,
                   const Term& term) {
  constexpr const char* kName = "quantise_weight_backward";
  const std::int64_t out = x.w.rows, in = x.w.cols, rank = x.a1.cols, kinds = rank + 2, of_row = in / kWarpColumns;
  const bool in_groups = (grads.scale || grads.zero) && x.scale.cols > 1;
  const auto scratch = [&](std::int64_t count) { return Storage(ctx.allocator, count * std::int64_t(sizeof(float))); };
  const Storage row_sums = scratch(x.col_tiles * kinds * out), a2 = scratch(row_tiles(x) * rank * in),
                group_sums = scratch(in_groups ? 2 * out * of_row : 0);
  const FactorSums partial{static_cast<float*>(row_sums.data()), static_cast<float*>(group_sums.data()),
                           static_cast<float*>(a2.data())};
  const auto run = [&](auto* kernel) {
    launch_tiles(kName, ctx, x, gradient_bytes(x), kernel, rows<bf16>(grads.w), partial, x, rows<const bf16>(dw_hat),
                 term);
  };
  grads.w || grads.zero ? run(gradient_kernel<kRounder, Wanted::everything, Term>)
                        : run(gradient_kernel<kRounder, Wanted::factors_and_scale, Term>);

  const auto grid_sum = [&](const View& y, std::int64_t kind, const float* minus_scale) {
    const std::int64_t per_group = x.group / kWarpColumns;
    return in_groups ? PartialSum{rows<float>(y), partial.groups + kind * out * of_row, of_row, per_group, 1, per_group,
                                  minus_scale}
                     : PartialSum{rows<float>(y), partial.rows + (rank + kind) * out, 1, 0, kinds * out, x.col_tiles,
                                  minus_scale};
  };
  finish_sums(kName, ctx,
              {{rows<float>(grads.a1), partial.rows, 1, out, kinds * out, x.col_tiles, nullptr},
               {rows<float>(grads.a2), partial.a2, in, 1, rank * in, row_tiles(x), nullptr},
               grid_sum(grads.scale, 0, nullptr),
               grid_sum(grads.zero, 1, x.scale.data)});
}

}  // namespace

void factor_gradients(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat, const WeightQuantiser& quantiser) {
  Tensor w_scratch, dw_scratch;
  const FactorWeights x = make_weights(packed_weights(ctx, w_scratch, quantiser));
  const View dy = packed_input(ctx, dw_scratch, dw_hat);
  packed_output<bf16>(ctx, grads.w, [&](const View& dw) {
    WeightQuantiserGrads wanted = grads;
    wanted.w = dw;
    dispatch_term(quantiser,
                  [&]<Rounder kRounder>(const auto& term) { run_gradients<kRounder>(ctx, wanted, dy, x, term); });
  });
}

}  // namespace cbq::cuda
