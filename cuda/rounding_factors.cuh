// A tile of bf16 weights with a low-rank offset, its products with a1 and a2 on tensor cores.
//
// A warp walks down 32 columns, 16 rows a step. Lane 4 g + t holds columns 8t .. 8t+7 of rows g and g + 8, which it
// moves by 16 bytes. With columns and ranks numbered to suit, that is how mma.m16n8k16 (cuda/mma.cuh) lays out
//   C of the offsets a1 a2:            rows 16, columns 8, contraction over ranks
//   B of da1^T = a2 doffset^T:         ranks 16, rows 8, contraction over columns
// and, each 8x8 matrix transposed by one movmatrix, B of da2 = a1^T doffset, contraction over rows.
//
// a1 and a2 are f32 and stay so: x = high + low, both bf16, is exact to 2^-17. Ranks 0 .. 7 of a fragment's 16 are the
// high parts, 8 .. 15 the low ones. doffset / s = slope m dw_hat is bf16 for the straight-through rounder, whose slope
// is 1; for the sigmoid it is split too.
#pragma once

#include <algorithm>

#include "cuda/mma.cuh"
#include "cuda/rounding_weight.cuh"

namespace cbq::cuda {

constexpr int kFactorWarps = 8, kFactorThreads = 32 * kFactorWarps;
constexpr int kWarpColumns = 32, kFactorColumns = kWarpColumns * kFactorWarps;  // of a tile
constexpr int kStepRows = 16, kFactorRows = 128;                                // of a step, of a tile
constexpr int kFactorRank = 8;                                                  // at most

struct FactorWeights {
  Rows<const bf16> w;
  Rows<const float> scale, zero, a1, a2;
  float last;                     // largest code
  std::int64_t group, col_tiles;  // columns that share a step, a multiple of 32 or all; tiles side by side
  int tile_groups;                // that the columns of a tile touch, at most
};

// x as the sum of two bf16, for two neighbours.
struct Halves {
  std::uint32_t high, low;
};
__device__ inline Halves split(float x0, float x1) {
  const std::uint32_t high = pack_bf16(x0, x1);
  return {high, pack_bf16(x0 - __uint_as_float(high << 16), x1 - __uint_as_float(high & 0xffff0000u))};
}

// The 8x8 matrix of b16 whose row g lies in lanes 4g .. 4g+3, transposed.
__device__ inline std::uint32_t transpose_matrix(std::uint32_t x) {
  std::uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// c += a b, contraction over the first 8 of 16.
__device__ inline void multiply_add_half(FragmentC& c, const std::uint32_t (&a)[2], std::uint32_t b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
}

// The tables of a block in shared memory.
struct FactorTables {
  Step* steps;     // [group of the tile][row]
  Halves* left;    // [row][t]: a1 of ranks 2t, 2t+1, times kOffsetUnit
  Halves* scaled;  // [group of the tile][pair of rows][rank]: a1 times s of both rows; gradients only
  float* sums;     // what a kernel keeps besides
};

// Bytes of FactorTables without `sums`.
inline std::size_t table_bytes(const FactorWeights& q, bool scaled) {
  const std::size_t groups = std::size_t(q.tile_groups), rows = kFactorRows;
  return groups * rows * sizeof(Step) + rows * 4 * sizeof(Halves) +
         (scaled ? groups * rows / 2 * kFactorRank * sizeof(Halves) : 0);
}

// Two packs of a lane in a step: rows g and g + 8.
using StepPacks = Raw<bf16, 8>[2];

template <Rounder kRounder>
class FactorTile {
 public:
  // Fills steps and left; all threads of the block call it.
  __device__ FactorTile(const FactorWeights& weights, char* shared, bool scaled) : q(weights) {
    const std::int64_t row_tile = blockIdx.x / q.col_tiles;
    col_tile = blockIdx.x - row_tile * q.col_tiles;
    first_row = row_tile * kFactorRows;
    rows = int(q.w.rows - first_row < kFactorRows ? q.w.rows - first_row : kFactorRows);
    warp = int(threadIdx.x / 32), g = int(threadIdx.x % 32 / 4), t = int(threadIdx.x % 4);
    const std::int64_t first_column = col_tile * kFactorColumns + warp * kWarpColumns;
    c = first_column + 8 * t;
    active = c < q.w.cols;
    const std::int64_t first_group = col_tile * kFactorColumns / q.group;
    group_ = first_column < q.w.cols ? int(first_column / q.group - first_group) : 0;
    tables.steps = reinterpret_cast<Step*>(shared);
    tables.left = reinterpret_cast<Halves*>(tables.steps + q.tile_groups * kFactorRows);
    tables.scaled = tables.left + kFactorRows * 4;
    tables.sums =
        reinterpret_cast<float*>(tables.scaled + (scaled ? q.tile_groups * kFactorRows / 2 * kFactorRank : 0));
    fill_steps(first_group);
    fill_left();
    load_right(first_column);
    __syncthreads();
  }

  // visit(first row of the step within the tile, offsets, packs of w, packs of `other`), by all threads of a warp; the
  // next step's are on their way meanwhile. What lies beyond the matrix is zero. Without data `other` is not read.
  template <class Visit>
  __device__ __forceinline__ void each_step(const Rows<const bf16>& other, const Visit& visit) const {
    const bf16 *w = at(q.w), *x = other.data ? at(other) : nullptr;
    StepPacks next_w = {}, next_x = {};
    read(next_w, w, q.w.stride, 0);
    if (x) read(next_x, x, other.stride, 0);
    for (int row = 0; row < rows; row += kStepRows) {
      const StepPacks now_w = {next_w[0], next_w[1]}, now_x = {next_x[0], next_x[1]};
      w += kStepRows * q.w.stride;
      read(next_w, w, q.w.stride, row + kStepRows);
      if (x) x += kStepRows * other.stride, read(next_x, x, other.stride, row + kStepRows);
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
  __device__ const Step& step_of(int row) const {
    return tables.steps[group_ * kFactorRows + row];
  }
  __device__ const Halves* scaled_of(int row) const {
    return tables.scaled + (group_ * kFactorRows + row) / 2 * kFactorRank;
  }

  const FactorWeights& q;
  FactorTables tables;
  std::int64_t first_row, col_tile, c;  // c: the lane's first column
  int rows, warp, g, t;
  bool active;  // whether the lane has columns

 private:
  // Steps of rows and groups beyond the matrix are such that zeros stay zeros.
  __device__ void fill_steps(std::int64_t first_group) {
    for (int i = int(threadIdx.x); i < q.tile_groups * kFactorRows; i += kFactorThreads) {
      const int row = i % kFactorRows;
      const std::int64_t in_row = first_group + i / kFactorRows;
      tables.steps[i] = row < rows && in_row < q.scale.cols
                            ? make_step(row_of(q.scale, first_row + row)[in_row],
                                        row_of(q.zero, first_row + row)[in_row], q.last, kLargestFastStep<kRounder>)
                            : Step{1, 1, 0, 0};
    }
  }

  __device__ float left_at(int row, int k) const {
    return row < rows && k < q.a1.cols ? row_of(q.a1, first_row + row)[k] : 0.0f;
  }
  __device__ float right_at(int k, std::int64_t column) const {
    return k < q.a2.rows && column < q.w.cols ? row_of(q.a2, k)[column] : 0.0f;
  }

  __device__ void fill_left() {
    for (int i = int(threadIdx.x); i < kFactorRows * 4; i += kFactorThreads) {
      const int row = i / 4, k = 2 * (i % 4);
      tables.left[i] = split(kOffsetUnit<kRounder> * left_at(row, k), kOffsetUnit<kRounder> * left_at(row, k + 1));
    }
  }

  // Column 2t of block j of the offsets is column 8t + 2j of the warp.
  __device__ void load_right(std::int64_t first_column) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const std::int64_t column = first_column + g / 2 * 8 + g % 2 + 2 * j;
      right_[j] = split(right_at(2 * t, column), right_at(2 * t + 1, column));
    }
  }

  __device__ const bf16* at(const Rows<const bf16>& x) const {
    return row_of(x, first_row + g) + c;
  }

  __device__ __forceinline__ void read(StepPacks& x, const bf16* from, std::int64_t stride, int row) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      x[half] = {};
      if (active && row + g + 8 * half < rows) x[half] = load_raw<8>(from + 8 * half * stride);
    }
  }

  // high high + low high, then high low.
  __device__ __forceinline__ void offsets(FragmentC (&d)[4], int row) const {
    const Halves upper = tables.left[(row + g) * 4 + t], lower = tables.left[(row + g + 8) * 4 + t];
    const FragmentA a = {upper.high, lower.high, upper.low, lower.low};
    const std::uint32_t high[2] = {upper.high, lower.high};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      d[j][0] = d[j][1] = d[j][2] = d[j][3] = 0;
      multiply_add(d[j], a, right_[j].high, right_[j].high);
      multiply_add_half(d[j], high, right_[j].low);
    }
  }

  int group_;        // of the warp, counted from the tile's first
  Halves right_[4];  // a2 as B of the offsets
};

}  // namespace cbq::cuda
