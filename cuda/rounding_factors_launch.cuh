// How kernels over tiles of cuda/rounding_factors.cuh are launched.
#pragma once

#include "cuda/rounding_factors.cuh"

namespace cbq::cuda {

// Of shared sums, [warp][kind][row]: ranks lie in different banks.
__host__ __device__ constexpr int sums_stride(int tile_rows) {
  return tile_rows + 8;
}

// Shared memory of the gradients' kernel.
inline std::size_t gradient_bytes(const FactorWeights& x) {
  const std::size_t kinds = std::size_t(x.a1.cols + 2);
  return table_bytes(x, Scaled::yes) + kFactorWarps * kinds * std::size_t(sums_stride(x.tile_rows)) * sizeof(float);
}

// Of a block, on every GPU that this program is compiled for.
constexpr std::size_t kSharedBytes = 96 << 10;

inline FactorWeights make_weights(const WeightQuantiser& q) {
  FactorWeights x{rows<const bf16>(q.w),
                  rows<const float>(q.grid.scale),
                  rows<const float>(q.start_scale ? q.start_scale : q.grid.scale),
                  rows<const float>(q.grid.zero),
                  rows<const float>(q.offset.a1),
                  rows<const float>(q.offset.a2),
                  float((1 << q.grid.bits) - 1),
                  0,
                  0,
                  0,
                  0};
  x.group = x.w.cols / x.scale.cols;
  x.col_tiles = (x.w.cols + kFactorColumns - 1) / kFactorColumns;
  x.tile_groups = int(groups_touched(kFactorColumns, x.group, x.scale.cols));
  x.tile_rows = 256;
  if (gradient_bytes(x) > kSharedBytes) x.tile_rows = 128;
  return x;
}

inline std::int64_t row_tiles(const FactorWeights& x) {
  return (x.w.rows + x.tile_rows - 1) / x.tile_rows;
}

template <class Kernel, class... Args>
void launch_tiles(const char* name, Context& ctx, const FactorWeights& x, std::size_t shared_bytes, Kernel* kernel,
                  Args&&... args) {
  launch_dependent(name, ctx, {unsigned(row_tiles(x) * x.col_tiles), kFactorThreads, shared_bytes}, kernel,
                   std::forward<Args>(args)...);
}

// The view, or a copy of it whose rows can be read in packs of 8.
inline View packed_input(Context& ctx, Tensor& scratch, const View& x) {
  constexpr std::int64_t kLongestRow = 1 << 30;  // its bytes fit an int
  if (packs<8>(rows<const bf16>(x)) && x.row_stride() < kLongestRow) return x;
  scratch = Tensor(ctx, {x.rows(), x.cols()}, x.dtype);
  convert(ctx, scratch, x);
  return scratch;
}
inline WeightQuantiser packed_weights(Context& ctx, Tensor& scratch, WeightQuantiser quantiser) {
  quantiser.w = packed_input(ctx, scratch, quantiser.w);
  return quantiser;
}

// write(to) where `to` is the view, or a matrix that can be written in packs of 8 and is copied into it.
template <class T, class Write>
void packed_output(Context& ctx, const View& y, const Write& write) {
  if (!y || packs<8>(rows<T>(y))) return write(y);
  const Tensor scratch(ctx, {y.rows(), y.cols()}, y.dtype);
  write(scratch);
  convert(ctx, y, scratch);
}

}  // namespace cbq::cuda
