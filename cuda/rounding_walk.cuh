// The walk over a matrix of weights that forward, codes and backward share: without an offset or with a dense one, f32
// and bf16, any shape. Low-rank offsets of bf16 weights take cuda/rounding_factors.cuh where shapes allow; all others
// are multiplied out first (dense_factors).
#pragma once

#include <algorithm>

#include "cuda/rounding_weight.cuh"

namespace cbq::cuda {

// A warp owns 32 N columns, N neighbours a lane, and walks down the rows; the four warps of a block take turns on the
// rows of one tile. The steps of a row are broadcast from shared memory.
constexpr int kRoundWarps = 4, kRoundThreads = 32 * kRoundWarps;
constexpr int kTileRows = 256;    // at most
constexpr int kTileSteps = 1024;  // rows of a tile times the groups that its columns touch, at most

enum class Offset { none, dense };

template <class T>
struct Weights {
  Rows<const T> w;
  Rows<const float> scale, start, zero, dense;  // start: s0; no data where the View is empty
  float last;                                   // largest code
  std::int64_t group, col_tiles;                // columns that share a step; tiles side by side
  int tile_rows, tile_groups;
};

// Columns c .. c + N - 1 of row r, and their step.
struct Place {
  std::int64_t r, c;
  Step step;
};

// Reads the pack of a lane in every row that its warp visits.
template <class T, int N>
class Cursor {
 public:
  __device__ Cursor(const Rows<const T>& x, std::int64_t r, std::int64_t c)
      : at_(row_of(x, r) + c), step_(kRoundWarps * x.stride) {}
  __device__ Raw<T, N> read() const { return load_raw<N>(at_); }
  __device__ void advance() { at_ += step_; }

 private:
  const T* at_;
  std::int64_t step_;
};

// In place of a Cursor where there is nothing to read.
struct NoCursor {
  struct Nothing {
    __device__ float operator[](int) const { return 0; }
  };
  __device__ Nothing read() const { return {}; }
  __device__ void advance() const {}
};

template <Rounder kRounder, Offset kOffset, int N, class T>
class TileWalk {
 public:
  // Fills the table of steps, [row][group of the tile]; all threads of the block call it.
  __device__ TileWalk(const Weights<T>& weights, StoredStep (&steps)[kTileSteps]) : q(weights), steps_(steps) {
    const std::int64_t row_tile = blockIdx.x / q.col_tiles, col_tile = blockIdx.x - row_tile * q.col_tiles;
    first_row = row_tile * q.tile_rows;
    rows = int(q.w.rows - first_row < q.tile_rows ? q.w.rows - first_row : q.tile_rows);
    c = (col_tile * 32 + threadIdx.x % 32) * N;
    active = c < q.w.cols;
    const std::int64_t first_group = col_tile * 32 * N / q.group;
    group_ = active ? int(c / q.group - first_group) : 0;
    for (int i = int(threadIdx.x); i < rows * q.tile_groups; i += kRoundThreads) {
      const int r = i / q.tile_groups;
      const std::int64_t g = first_group + (i - r * q.tile_groups);
      if (g < q.scale.cols)
        steps_[i] = make_step(row_of(q.start, first_row + r)[g], row_of(q.scale, first_row + r)[g],
                              row_of(q.zero, first_row + r)[g], kLargestFastStep<kRounder>);
    }
    __syncthreads();
  }

  // visit(place, rounded[N], pack of the cursor) for the rows of this warp, by all its lanes; the next row is on its
  // way meanwhile. Lanes that are not active see the first columns.
  template <class Extra, class Visit>
  __device__ __forceinline__ void each_row(Extra extra, const Visit& visit) const {
    const int warp = int(threadIdx.x / 32);
    if (warp >= rows) return;
    Cursor<T, N> w = cursor(q.w);
    auto dense = dense_cursor();
    auto next_w = w.read();
    auto next_d = dense.read();
    auto next_extra = extra.read();
    for (int i = warp; i < rows; i += kRoundWarps) {
      const auto now_w = next_w;
      const auto now_d = next_d;
      const auto now_extra = next_extra;
      if (i + kRoundWarps < rows) {
        w.advance(), dense.advance(), extra.advance();
        next_w = w.read(), next_d = dense.read(), next_extra = extra.read();
      }
      const Place place{first_row + i, c, steps_[i * q.tile_groups + group_].with(q.last)};
      Rounded rounded[N];
      round_pack(rounded, now_w, now_d, place.step);
      visit(place, rounded, now_extra);
    }
  }

  // Over a matrix of the shape of w.
  template <class X>
  __device__ Cursor<X, N> cursor(const Rows<const X>& x) const {
    return {x, first_row + threadIdx.x / 32, active ? c : 0};
  }

  const Weights<T>& q;
  std::int64_t first_row, c;
  int rows;
  bool active;  // whether the lane has columns

 private:
  __device__ auto dense_cursor() const {
    if constexpr (kOffset == Offset::dense)
      return cursor(q.dense);
    else
      return NoCursor();
  }

  template <class Dense>
  __device__ __forceinline__ void round_pack(Rounded (&rounded)[N], const Raw<T, N>& w, const Dense& dense,
                                             const Step& step) const {
    float ratio[N];
    quotients(ratio, w, step, w.all_below_2() ? step.inverse : 0);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      float d = 0;
      if constexpr (kOffset == Offset::dense) d = kOffsetUnit<kRounder> * dense[n];
      rounded[n] = round_weight<kRounder>(ratio[n], d);
    }
  }

  StoredStep (&steps_)[kTileSteps];
  int group_;  // of the lane, counted from the tile's first
};

// ---- on the host

template <class T>
bool inputs_pack(const WeightQuantiser& q) {
  return packs_or_empty<T>(q.w) && q.w.cols() / q.grid.scale.cols() % kPackedColumns == 0 &&
         packs_or_empty<float>(q.offset.dense);
}

template <class T>
Weights<T> make_weights(const WeightQuantiser& q, std::int64_t columns_a_lane) {
  Weights<T> x{rows<const T>(q.w),
               rows<const float>(q.grid.scale),
               rows<const float>(q.start_scale ? q.start_scale : q.grid.scale),
               rows<const float>(q.grid.zero),
               rows<const float>(q.offset.dense),
               float((1 << q.grid.bits) - 1),
               0,
               0,
               0,
               0};
  const std::int64_t width = 32 * columns_a_lane;
  x.group = x.w.cols / x.scale.cols;
  x.col_tiles = (x.w.cols + width - 1) / width;
  x.tile_groups = int(groups_touched(width, x.group, x.scale.cols));
  x.tile_rows = std::min(kTileRows, kTileSteps / x.tile_groups);
  return x;
}

template <class T>
LaunchShape tile_shape(const Weights<T>& x) {
  return {unsigned((x.w.rows + x.tile_rows - 1) / x.tile_rows * x.col_tiles), kRoundThreads};
}

// Factors a1, a2 as a dense offset (out, in) in `scratch`; the quantiser itself where it has none.
WeightQuantiser dense_factors(Context& ctx, Tensor& scratch, const WeightQuantiser& quantiser);

// Calls fn.template operator()<Offset, N>() for a quantiser that dense_factors made.
template <class Fn>
void dispatch_offset(const RoundingOffset& offset, bool packed, const Fn& fn) {
  const auto with_columns = [&]<Offset kOffset>() {
    packed ? fn.template operator()<kOffset, kPackedColumns>() : fn.template operator()<kOffset, 1>();
  };
  offset.dense ? with_columns.template operator()<Offset::dense>() : with_columns.template operator()<Offset::none>();
}

}  // namespace cbq::cuda
