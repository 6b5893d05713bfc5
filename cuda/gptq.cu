// GPTQ (Frantar et al. 2022, 2210.17323, algorithm 1): codes chosen column by column, each column's rounding error made
// up for by the columns still to come, so that the error in the layer's output, (w - w_hat) h (w - w_hat)^T, stays
// small. What is kept is w_j as it was rounded, from which the codes follow.
//
//   for j in order: q_j = clip(round(w_j / s) + z), e = (w_j - w_hat_j) / u_jj, w_k -= e u_jk for all k > j
//
// Rows do not depend on each other. Columns go in blocks of 128: within a block one warp walks through a row, then one
// product of depth 128 takes the block's errors from all columns behind it. What is left of w is kept in double, as on
// the CPU, because a code that flips at a tie changes all codes behind it: rows * n^2 flops in double are 0.3 s for the
// largest weight there is (8192 x 22016) at 15 TFLOP/s. Rows are taken kPanelRows at a time, which bounds the doubles
// by 360 MB there and still fills the device.
#include <algorithm>

#include "cuda/double_tile.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

constexpr int kBlock = 128;                // columns
constexpr std::int64_t kPanelRows = 2048;  // a multiple of kTile
constexpr int kRowsPerBlock = 4;           // warps of quantise_kernel's blocks

template <class T>
struct Problem {
  Rows<T> compensated;
  Rows<const float> scale, zero, u;
  const std::int32_t* order;
  float last;
  std::int64_t group;
};

// A panel of rows in the order of the columns, less what earlier blocks took. Rows and columns are padded to tiles;
// what a product leaves in the padding goes nowhere else.
struct Panel {
  double* left;   // (rows, stride)
  double* error;  // (kBlock, rows): the scaled errors of the block at hand, transposed for tile_product
  std::int64_t first, rows, stride;
};

// left = w in the order of the columns, 0 where there is no row or column. Floor: one read of w, one write of left.
template <class T>
__global__ void gather_kernel(Panel panel, Rows<const T> w, const std::int32_t* order) {
  for (std::int64_t e = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; e < panel.rows * panel.stride;
       e += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t i = e / panel.stride, j = e - i * panel.stride, r = panel.first + i;
    panel.left[e] = r < w.rows && j < w.cols ? double(to_float(w.data[r * w.stride + order[j]])) : 0;
  }
}

// Rounds columns [begin, end) of the order, one warp a row; lane l holds columns begin + l, + 32, + 64 and + 96. Each
// step is a chain (a division in float, one in double, an FMA), which the other warps of the multiprocessor hide; u
// comes from the first cache level, where the rows of a block share it.
template <class T>
__global__ void __launch_bounds__(32 * kRowsPerBlock)
    quantise_kernel(Problem<T> p, Panel panel, std::int64_t begin, std::int64_t end) {
  constexpr int kSlots = kBlock / 32;
  const int lane = threadIdx.x % 32;
  const std::int64_t i = blockIdx.x * std::int64_t(kRowsPerBlock) + threadIdx.x / 32, r = panel.first + i;
  if (r >= p.compensated.rows) return;  // a whole warp
  double left[kSlots], error[kSlots];
  float scale[kSlots], zero[kSlots], diagonal[kSlots];
  T rounded[kSlots];
#pragma unroll
  for (int m = 0; m < kSlots; ++m) {
    const std::int64_t j = begin + 32 * m + lane;
    const bool exists = j < end;
    const std::int64_t g = exists ? p.order[j] / p.group : 0;
    left[m] = exists ? panel.left[i * panel.stride + j] : 0;
    scale[m] = p.scale.data[r * p.scale.stride + g];
    zero[m] = p.zero.data[r * p.zero.stride + g];
    diagonal[m] = exists ? p.u.data[j * p.u.stride + j] : 1;
    error[m] = 0;
    rounded[m] = from_float<T>(0);
  }
#pragma unroll
  for (int m = 0; m < kSlots; ++m) {
    for (int owner = 0; owner < 32 && begin + 32 * m + owner < end; ++owner) {
      const std::int64_t j = begin + 32 * m + owner;
      const float s = __shfl_sync(kFullWarp, scale[m], owner), z = __shfl_sync(kFullWarp, zero[m], owner);
      const double x = __shfl_sync(kFullWarp, left[m], owner);
      const T w = from_float<T>(float(x));
      const float v = rintf(to_float(w) / s) + z, q = v > 0 ? (v < p.last ? v : p.last) : 0.f;
      const double e = (x - double(s) * double(q - z)) / double(__shfl_sync(kFullWarp, diagonal[m], owner));
      if (lane == owner) error[m] = e, rounded[m] = w;
#pragma unroll
      for (int to = m; to < kSlots; ++to) {
        const std::int64_t k = begin + 32 * to + lane;
        if (k > j && k < end) left[to] -= e * double(p.u.data[j * p.u.stride + k]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kSlots; ++m) {
    const std::int64_t j = begin + 32 * m + lane;
    if (j < end) p.compensated.data[r * p.compensated.stride + p.order[j]] = rounded[m];
    panel.error[(32 * m + lane) * panel.rows + i] = error[m];
  }
}

// left_k -= sum over j in [begin, begin + 128) of error_j u_jk for k >= begin + 128, one block a tile. Floor: 16 bytes
// an element against 256 flops, so that arithmetic decides.
__global__ void __launch_bounds__(kTileThreads)
    take_errors_kernel(Panel panel, Rows<const float> u, std::int64_t begin) {
  const std::int64_t i0 = blockIdx.y * std::int64_t(kTile), k0 = begin + kBlock + blockIdx.x * std::int64_t(kTile);
  const TileSum sum = tile_product(
      kBlock, [&](int j, int i) { return panel.error[j * panel.rows + i0 + i]; },
      [&](int j, int k) { return k0 + k < u.cols ? double(u.data[(begin + j) * u.stride + k0 + k]) : 0; });
  sum.for_each([&](int i, int k, double value) { panel.left[(i0 + i) * panel.stride + k0 + k] -= value; });
}

std::int64_t up_to_tile(std::int64_t n) {
  return (n + kTile - 1) / kTile * kTile;
}

template <class T>
void quantise_panel(Context& ctx, const Problem<T>& p, const Panel& panel, Rows<const T> w) {
  const char* const name = "gptq_weights";
  launch(name, ctx, shape_for(panel.rows * panel.stride), gather_kernel<T>, panel, w, p.order);
  for (std::int64_t begin = 0; begin < w.cols; begin += kBlock) {
    const std::int64_t end = std::min(w.cols, begin + kBlock);
    launch(name, ctx, {unsigned(panel.rows / kRowsPerBlock), 32 * kRowsPerBlock}, quantise_kernel<T>, p, panel, begin,
           end);
    if (end == w.cols) return;
    launch(name, ctx, {dim3(unsigned((panel.stride - end) / kTile), unsigned(panel.rows / kTile)), kTileThreads},
           take_errors_kernel, panel, p.u, begin);
  }
}

}  // namespace

void gptq_weights(Context& ctx, View compensated, View w, const WeightGrid& grid, View u, View order) {
  if (w.count() == 0) return;
  for (const View& x : {grid.scale, grid.zero, u})
    require(x.dtype == DType::f32, "gptq_weights: the grid and u are f32, got ", x.dtype);
  const std::int64_t count = up_to_tile(std::min(w.rows(), kPanelRows)), stride = up_to_tile(w.cols());
  const Storage left(ctx.allocator, count * stride * std::int64_t(sizeof(double))),
      error(ctx.allocator, count * kBlock * std::int64_t(sizeof(double)));
  Panel panel{static_cast<double*>(left.data()), static_cast<double*>(error.data()), 0, count, stride};
  dispatch_value(w.dtype, "gptq_weights", [&]<class T>() {
    const Problem<T> p{rows<T>(compensated),        rows<const float>(grid.scale),       rows<const float>(grid.zero),
                       rows<const float>(u),        elements<const std::int32_t>(order), float((1 << grid.bits) - 1),
                       w.cols() / grid.scale.cols()};
    for (; panel.first < w.rows(); panel.first += panel.rows) quantise_panel(ctx, p, panel, rows<const T>(w));
  });
}

}  // namespace cbq::cuda
