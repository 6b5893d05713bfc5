// What the attention kernels on wgmma share: tiles in shared memory and their products, the order of work, the split
// of a block into a warp that copies and warpgroups that compute.
#pragma once

#include "cuda/attention.cuh"
#include "cuda/wgmma.cuh"

namespace cbq::cuda {

// kRows rows of kDim columns, in panels of 64.
template <int kRows, int kDim>
struct PanelTile {
  static constexpr int kPanelBytes = kRows * kPanelRowBytes, kPanels = kDim / kPanelColumns;
  static constexpr int kBytes = kPanels * kPanelBytes;

  // Starts the copy of rows `row` on, of one head.
  static __device__ void copy(std::uint32_t to, const CUtensorMap& map, int row, int head, int batch,
                              std::uint32_t barrier) {
#pragma unroll
    for (int panel = 0; panel < kPanels; ++panel)
      copy_tile(to + panel * kPanelBytes, map, panel * kPanelColumns, row, head, batch, barrier);
  }
  // What 16 k columns further adds to a descriptor.
  static __device__ constexpr std::uint64_t column_step(int k) {
    return (k / 4 * kPanelBytes + k % 4 * 32) / 16;
  }
  // What 16 k rows further adds to a descriptor.
  static __device__ constexpr std::uint64_t row_step(int k) {
    return k * 16 * kPanelRowBytes / 16;
  }
};

// c = x y^T for 64 rows of x from row `row` on, and all of y.
template <class X, class Y, int kBlocks, int kDim = X::kPanels* kPanelColumns>
__device__ void multiply_transposed(FragmentC (&c)[kBlocks], std::uint32_t x, int row, std::uint32_t y) {
  const std::uint64_t of_x = matrix(x + row * kPanelRowBytes, X::kPanelBytes), of_y = matrix(y, Y::kPanelBytes);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) multiply_rows(c, of_x + X::column_step(k), of_y + Y::column_step(k), k > 0);
}

// Values rounded to bf16, as A fragments.
template <int kBlocks>
struct Rounded {
  FragmentA of[kBlocks / 2];
};
template <int kBlocks>
__device__ void round_to(Rounded<kBlocks>& a, const FragmentC (&p)[kBlocks]) {
#pragma unroll
  for (int k = 0; k < kBlocks / 2; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) a.of[k][e] = pack_bf16(p[2 * k + e / 2][e % 2 * 2], p[2 * k + e / 2][e % 2 * 2 + 1]);
}

// c += p y
template <class Y, int kBlocks, int kColumnBlocks>
__device__ void multiply(FragmentC (&c)[kColumnBlocks], const Rounded<kBlocks>& p, std::uint32_t y) {
  const std::uint64_t of_y = matrix(y, Y::kPanelBytes);
#pragma unroll
  for (int k = 0; k < kBlocks / 2; ++k) multiply_columns(c, p.of[k], of_y + Y::row_step(k));
}

// A block stays on its multiprocessor and takes one piece of work after the other, so that copies for the next one
// start while this one ends. Pieces are numbered by falling work; the rounds go to and fro, so that each block gets
// about as much as another.
struct Rounds {
  unsigned pieces, round = 0;
  __device__ unsigned piece() const {
    return round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  }
  __device__ bool left() const { return piece() < pieces; }
};

}  // namespace cbq::cuda
