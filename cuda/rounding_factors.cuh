// A tile of bf16 weights with a low-rank offset, its products with a1 and a2 on tensor cores.
//
// A warp walks down 32 columns, 16 rows a step. Lane 4 g + t holds columns 8t .. 8t+7 of rows g and g + 8, which it
// moves by 16 bytes. With columns and ranks numbered to suit, that is how mma.m16n8k16 (cuda/mma.cuh) lays out
//   C of the offsets a1 a2:            rows 16, columns 8, contraction over 8 ranks
//   B of da1^T = a2 doffset^T:         ranks 16, rows 8, contraction over columns
// and, each 8x8 matrix transposed by one movmatrix, B of da2 = a1^T doffset, contraction over rows.
//
// a1 and a2 are f32 and stay so: x = high + low, both bf16, is exact to 2^-17; of a product's four parts low low is
// left out. Ranks 0 .. 7 of a fragment's 16 are the high parts, 8 .. 15 the low ones. doffset / s = slope m dw_hat is
// bf16 for the straight-through rounder, whose slope is 1; for the sigmoid it is split too.
#pragma once

#include <algorithm>

#include "cuda/mma.cuh"
#include "cuda/rounding_weight.cuh"
#include "cuda/words.cuh"

namespace cbq::cuda {

constexpr int kFactorWarps = 8, kFactorThreads = 32 * kFactorWarps;
constexpr int kWarpColumns = 32, kFactorColumns = kWarpColumns * kFactorWarps;  // of a tile
constexpr int kStepRows = 16;                                                   // of a step
constexpr int kStepBytes = kStepRows * kFactorColumns * 2;                      // of a tile's weights in a step
constexpr int kHeldSteps = 4, kHeldRows = kHeldSteps * kStepRows;               // of a tile in shared memory
constexpr int kFactorRank = 8;                                                  // at most

struct FactorWeights {
  Rows<const bf16> w;
  Rows<const float> scale, start, zero, a1, a2;  // start: s0
  float last;                                    // largest code
  std::int64_t group, col_tiles;  // columns that share a step, a multiple of 32 or all; tiles side by side
  int tile_rows, tile_groups;     // rows of a tile, a multiple of 32; groups that its columns touch, at most
};

// The tables of a block in shared memory. Quads are the four words of an A that lane 4g + t loads, [step][g][t].
struct FactorTables {
  uint4* right;   // [2][warp][lane], a2 as B of the offsets' four blocks: high parts, low parts
  uint4* left;    // a1 times kOffsetUnit: ranks 2t, 2t+1 of rows g and g + 8, high parts, then low parts
  uint4* scaled;  // [group of the tile][step][g][t], a1 times unit: rank g, rows 2t, 2t+1 and 8 above, each high, low
  StoredStep* steps;  // [group of the tile][row]
  float* sums;        // what a kernel keeps besides, 16-byte aligned
};

enum class Scaled { no, yes };

// Bytes of FactorTables without `sums`.
inline std::size_t table_bytes(const FactorWeights& q, Scaled scaled) {
  const std::size_t groups = std::size_t(q.tile_groups), rows = std::size_t(q.tile_rows);
  return 2 * kFactorThreads * sizeof(uint4) + rows * (groups * sizeof(StoredStep) + 2 * sizeof(uint4) +
                                                      (scaled == Scaled::yes ? groups * 2 * sizeof(uint4) : 0));
}

// Two packs of a lane in a step: rows g and g + 8.
using StepPacks = Raw<bf16, 8>[2];

template <Rounder kRounder>
class FactorTile {
 public:
  __device__ FactorTile(const FactorWeights& weights, uint4* shared, Scaled scaled)
      : q(weights),
        row_tile(int(blockIdx.x / weights.col_tiles)),
        col_tile(int(blockIdx.x - row_tile * weights.col_tiles)),
        warp(int(threadIdx.x / 32)),
        g(int(threadIdx.x % 32 / 4)),
        t(int(threadIdx.x % 4)),
        first_row(std::int64_t(row_tile) * weights.tile_rows),
        rows(int(weights.w.rows - first_row < weights.tile_rows ? weights.w.rows - first_row : weights.tile_rows)) {
    const std::int64_t first_column = std::int64_t(col_tile) * kFactorColumns + warp * kWarpColumns;
    c = first_column + 8 * t;
    active = c < q.w.cols;
    tables.right = shared;
    tables.left = tables.right + 2 * kFactorThreads;
    tables.scaled = tables.left + 2 * q.tile_rows;
    tables.steps =
        reinterpret_cast<StoredStep*>(tables.scaled + (scaled == Scaled::yes ? q.tile_groups * 2 * q.tile_rows : 0));
    tables.sums = reinterpret_cast<float*>(tables.steps + q.tile_groups * q.tile_rows);
    const int group = group_of(warp);
    right_ = keep(shared_address(tables.right + threadIdx.x));
    left_ = keep(shared_address(tables.left + 4 * g + t));
    scaled_ = keep(shared_address(tables.scaled + group * 2 * q.tile_rows + 4 * g + t));
    steps_ = keep(shared_address(tables.steps + group * q.tile_rows + g));
    held_ = shared_address(tables.sums) + std::uint32_t(sizeof(uint4)) * threadIdx.x;
  }

  // Steps, left and right; all threads of the block call it, and __syncthreads() before the first step.
  __device__ void fill_tables() const {
    fill_steps();
    fill_left();
    load_right();
  }
  // The first step's weights on their way to the L2 cache while the tables are filled.
  __device__ void prefetch() const {
    if (!active) return;
    for (int half = 0; half < 2; ++half)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(row_of(q.w, row_at(0, half)) + c));
  }

  // A tile of kHeldRows: all of its weights on their way to shared memory, behind the tables. After fill_tables(),
  // which would otherwise wait for them.
  __device__ void copy_weights() const {
#pragma unroll
    for (int step = 0; step < kHeldSteps; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        copy_async(held_at(step, half), row_of(q.w, row_at(step * kStepRows, half)) + (active ? c : 0));
      commit_copies();
    }
  }
  // As each_step() below without x, after copy_weights(). A lane reads what it copied itself. A loop, because
  // four copies of its body take the instruction cache.
  template <class Visit>
  __device__ __forceinline__ void each_held_step(const Visit& visit) const {
#pragma unroll 1
    for (int step = 0; step * kStepRows < rows; ++step) {
      wait_for(step);
      StepPacks w;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 words = load_words(held_at(step, half));
        w[half] = {{words.x, words.y, words.z, words.w}};
      }
      FragmentC d[4];
      offsets(d, step * kStepRows);
      visit(step * kStepRows, d, w);
    }
  }

  // visit(first row of the step within the tile, offsets, packs of w, packs of x), by all threads of a warp; the packs
  // of the next step are on their way meanwhile. Beyond the matrix there stand its last row and first columns: their
  // factors are zero, their sums are not stored.
  template <class Visit>
  __device__ __forceinline__ void each_step(const Rows<const bf16>& x, const Visit& visit) const {
    const char *w_at = at(q.w), *x_at = at(x);
    const int w_stride = int(q.w.stride * 2), x_stride = int(x.stride * 2);
    StepPacks next_w, next_x;
    const auto read_next = [&](int row) {
      read(next_w, w_at, w_stride, row);
      read(next_x, x_at, x_stride, row);
    };
    read_next(0);
    for (int row = 0; row < rows; row += kStepRows) {
      const StepPacks now_w = {next_w[0], next_w[1]}, now_x = {next_x[0], next_x[1]};
      if (row + kStepRows < rows) read_next(row + kStepRows);
      FragmentC d[4];
      offsets(d, row);
      visit(row, d, now_w, now_x);
    }
  }

  // Row g (half 0) or g + 8 of a step.
  __device__ __forceinline__ void round_row(Rounded (&x)[8], const Step& step, const Raw<bf16, 8>& w,
                                            const FragmentC (&d)[4], int half) const {
    float ratio[8];
    quotients(ratio, w, step, w.all_below_2() ? step.inverse : 0);
#pragma unroll
    for (int n = 0; n < 8; ++n) x[n] = round_weight<kRounder>(ratio[n], d[n / 2][2 * half + n % 2]);
  }
  // Of row `row` + g.
  __device__ Step step_of(int row) const {
    const uint4 x = load_words(steps_ + std::uint32_t(row) * std::uint32_t(sizeof(StoredStep)));
    return StoredStep{__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z), __uint_as_float(x.w)}.with(
        q.last);
  }
  __device__ uint4 scaled_of(int row) const {
    return load_words(scaled_ + 2 * sizeof(uint4) * std::uint32_t(row));
  }
  // Of the columns of a warp, counted from the tile's first.
  __device__ int group_of(int of_warp) const {
    const std::int64_t first = std::int64_t(col_tile) * kFactorColumns, column = first + of_warp * kWarpColumns;
    return q.tile_groups == 1 || column >= q.w.cols ? 0 : int(column / q.group - first / q.group);
  }

  const FactorWeights& q;
  FactorTables tables;
  const int row_tile, col_tile, warp, g, t;
  const std::int64_t first_row;
  const int rows;
  std::int64_t c;  // the lane's first column
  bool active;     // whether the lane has columns

 private:
  // Steps of rows and groups beyond the matrix are 1: what is multiplied by zero there is finite.
  __device__ void fill_steps() const {
    const std::int64_t first_group =
        q.tile_groups == 1 && q.scale.cols == 1 ? 0 : std::int64_t(col_tile) * kFactorColumns / q.group;
    for (int row = int(threadIdx.x); row < q.tile_rows; row += kFactorThreads)
      for (int i = 0; i < q.tile_groups; ++i) {
        const std::int64_t in_row = first_group + i;
        const bool exists = row < rows && in_row < q.scale.cols;
        tables.steps[i * q.tile_rows + row] =
            exists ? make_step(row_of(q.start, first_row + row)[in_row], row_of(q.scale, first_row + row)[in_row],
                               row_of(q.zero, first_row + row)[in_row], kLargestFastStep<kRounder>)
                   : StoredStep{1, 1, 0, 1};
      }
  }

  // A thread a row and half of the ranks.
  __device__ void fill_left() const {
    for (int i = int(threadIdx.x); i < 2 * q.tile_rows; i += kFactorThreads) {
      const int row = i / 2, k = i % 2 * 4, upper = row % kStepRows / 8;
      float x[4];
#pragma unroll
      for (int n = 0; n < 4; ++n)
        x[n] = row < rows && k + n < q.a1.cols ? kOffsetUnit<kRounder> * row_of(q.a1, first_row + row)[k + n] : 0.0f;
      unsigned* to = reinterpret_cast<unsigned*>(tables.left + row / kStepRows * 32 + row % 8 * 4 + k / 2) + upper;
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const Halves halves = split(x[2 * pair], x[2 * pair + 1]);
        to[4 * pair] = halves.high, to[4 * pair + 2] = halves.low;
      }
    }
  }

  // Column 2t of block j of the offsets is column 8t + 2j of the warp.
  __device__ void load_right() const {
    const std::int64_t column = std::int64_t(col_tile) * kFactorColumns + warp * kWarpColumns + g / 2 * 8 + g % 2;
    const float* from = q.a2.data + 2 * t * q.a2.stride + column;
    const bool first = 2 * t < q.a2.rows, second = 2 * t + 1 < q.a2.rows;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const bool exists = column + 2 * j < q.w.cols;
      const Halves halves =
          split(exists && first ? from[2 * j] : 0.0f, exists && second ? from[q.a2.stride + 2 * j] : 0.0f);
      reinterpret_cast<unsigned*>(tables.right + threadIdx.x)[j] = halves.high;
      reinterpret_cast<unsigned*>(tables.right + kFactorThreads + threadIdx.x)[j] = halves.low;
    }
  }

  // Until the lane's copies of this step are there.
  __device__ static void wait_for(int step) {
    static_assert(kHeldSteps == 4);
    if (step == 0) wait_copies<3>();
    if (step == 1) wait_copies<2>();
    if (step == 2) wait_copies<1>();
    if (step == 3) wait_copies<0>();
  }
  // Row g or g + 8 of the step from `row` on, or the last.
  __device__ std::int64_t row_at(int row, int half) const {
    return first_row + min(row + g + 8 * half, rows - 1);
  }
  __device__ std::uint32_t held_at(int step, int half) const {
    return held_ + std::uint32_t(step * kStepBytes + half * (kStepBytes / 2));
  }

  __device__ const char* at(const Rows<const bf16>& x) const {
    return keep(reinterpret_cast<const char*>(row_of(x, first_row) + (active ? c : 0)));
  }

  __device__ __forceinline__ void read(StepPacks& x, const char* from, int stride, int row) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = min(row + g + 8 * half, rows - 1);
      const uint4 words = stream_words(from + static_cast<long long>(r) * stride);
      x[half] = {{words.x, words.y, words.z, words.w}};
    }
  }

  __device__ __forceinline__ void offsets(FragmentC (&d)[4], int row) const {
    const uint4 a = load_words(left_ + 2 * sizeof(uint4) * std::uint32_t(row));
    const std::uint32_t high[2] = {a.x, a.y}, low[2] = {a.z, a.w};
    const uint4 b = load_words(right_), b_low = load_words(right_ + std::uint32_t(kFactorThreads * sizeof(uint4)));
    const std::uint32_t right_high[4] = {b.x, b.y, b.z, b.w}, right_low[4] = {b_low.x, b_low.y, b_low.z, b_low.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
      multiply_add_half(d[j], high, right_high[j]);
      multiply_add_half(d[j], low, right_high[j]);
      multiply_add_half(d[j], high, right_low[j]);
    }
  }

  // Addresses: of the lane's words and quads, of row g of the warp's group, of what the lane copies.
  std::uint32_t right_, left_, scaled_, steps_, held_;
};

}  // namespace cbq::cuda
