// What the attention kernels on wgmma share: the split of a block into a thread that copies tiles and warpgroups that
// compute, the order of work, tiles in shared memory and their products, and the way of results to memory.
#pragma once

#include "cuda/attention.cuh"
#include "cuda/wgmma.cuh"

namespace cbq::cuda {

// A block: two warpgroups compute 64 rows each, one thread of a third copies tiles for them. Registers are dealt out
// anew when it starts, as the results and scores of 64 rows need most of them.
constexpr int kComputing = 2, kBlockRows = 64 * kComputing, kComputingThreads = kWarpgroup * kComputing;
constexpr int kComputingWarps = kComputingThreads / 32, kBlockThreads = kComputingThreads + kWarpgroup;

// Calls copy() in one thread and compute(warpgroup) in those that compute.
template <class Copy, class Compute>
__device__ void split_block(const Copy& copy, const Compute& compute) {
  const int warpgroup = warpgroup_index();
  if (warpgroup == kComputing) {
    shrink_registers<24>();
    if (threadIdx.x == kComputingThreads) copy();
  } else {
    grow_registers<240>();
    compute(warpgroup);
  }
}

// The two warpgroups take turns at what lies between these calls. Warpgroup 1 passes the first turn.
__device__ inline void await_turn(int warpgroup) {
  asm volatile("bar.sync %0, %1;" ::"r"(1 + warpgroup), "n"(kComputingThreads) : "memory");
}
__device__ inline void pass_turn(int warpgroup) {
  asm volatile("bar.arrive %0, %1;" ::"r"(2 - warpgroup), "n"(kComputingThreads) : "memory");
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

template <class Tile>
struct SharedParts;

// Launches a kernel with a piece of work for each kBlockRows tokens of a head of x; their number is its last argument.
template <class Tile, class Kernel, class... Args>
void launch_pieces(const char* name, Context& ctx, Kernel kernel, const Heads<const bf16>& x, const Args&... args) {
  const unsigned pieces = block_count(name, (x.tokens + kBlockRows - 1) / kBlockRows, x.batch, x.heads);
  const unsigned blocks = std::min(pieces, unsigned(cuda_context(ctx).multiprocessors));
  launch_dependent(name, ctx, {blocks, kBlockThreads, SharedParts<Tile>::kBytes}, kernel, args..., pieces);
}

// kBlockRows queries of a head, `query` the first, and the tiles of kKeys keys that they see.
struct QueryPiece {
  BlockPosition at;
  int query, key_tiles;
};
template <int kKeys>
__device__ QueryPiece query_piece(const Heads<const bf16>& q, const Heads<const bf16>& k, unsigned piece) {
  const int queries = int(q.tokens), keys = int(k.tokens);
  BlockPosition at = block_position(piece, q.batch, q.heads);
  at.tile = (queries + kBlockRows - 1) / kBlockRows - 1 - at.tile;  // the last see the most keys
  const int query = at.tile * kBlockRows, keys_seen = min(keys, query + kBlockRows + keys - queries);
  return {at, query, (keys_seen + kKeys - 1) / kKeys};
}

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
template <class X, class Y, int kBlocks>
__device__ void multiply_transposed(FragmentC (&c)[kBlocks], std::uint32_t x, int row, std::uint32_t y) {
  const std::uint64_t of_x = matrix(x + row * kPanelRowBytes, X::kPanelBytes), of_y = matrix(y, Y::kPanelBytes);
#pragma unroll
  for (int k = 0; k < X::kPanels * kPanelColumns / 16; ++k)
    multiply_rows(c, of_x + X::column_step(k), of_y + Y::column_step(k), k == 0 ? Onto::zero : Onto::result);
}

// Values rounded to bf16, as A fragments.
template <int kBlocks>
using Rounded = FragmentA[kBlocks / 2];
template <int kBlocks>
__device__ void round_to(FragmentA (&a)[kBlocks / 2], const FragmentC (&p)[kBlocks]) {
#pragma unroll
  for (int k = 0; k < kBlocks / 2; ++k)
#pragma unroll
    for (int e = 0; e < 4; ++e) a[k][e] = pack_bf16(p[2 * k + e / 2][e % 2 * 2], p[2 * k + e / 2][e % 2 * 2 + 1]);
}

// c += p y
template <class Y, int kSteps, int kBlocks>
__device__ void multiply(FragmentC (&c)[kBlocks], const FragmentA (&p)[kSteps], std::uint32_t y) {
  const std::uint64_t of_y = matrix(y, Y::kPanelBytes);
#pragma unroll
  for (int k = 0; k < kSteps; ++k) multiply_columns(c, p[k], of_y + Y::row_step(k));
}

// The 16 rows of a warp times factor[i / 8], rounded, through shared memory to rows `row` on of one head. The place in
// shared memory is the warp's own.
template <int kDim>
struct ResultTile {
  static constexpr int kRows = 16;
  using Tile = PanelTile<kRows, kDim>;

  // Before store() with a place used before, and before the block ends.
  static __device__ void await_stores() {
    if (threadIdx.x % 32 == 0) await_reads();
    __syncwarp();
  }
  static __device__ void store(const CUtensorMap& map, std::uint32_t through, const FragmentC (&c)[kDim / 8],
                               const float (&factor)[2], int row, int head, int batch) {
    const int lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int j = 0; j < kDim / 8; j += 2)
      store_matrices(through + j / 8 * Tile::kPanelBytes + chunk_offset<kPanelColumns>(lane % 16, j % 8 + lane / 16),
                     pack_bf16(c[j][0] * factor[0], c[j][1] * factor[0]),
                     pack_bf16(c[j][2] * factor[1], c[j][3] * factor[1]),
                     pack_bf16(c[j + 1][0] * factor[0], c[j + 1][1] * factor[0]),
                     pack_bf16(c[j + 1][2] * factor[1], c[j + 1][3] * factor[1]));
    publish_writes();
    __syncwarp();
    if (lane != 0) return;
#pragma unroll
    for (int panel = 0; panel < Tile::kPanels; ++panel)
      copy_tile_back(map, through + panel * Tile::kPanelBytes, panel * kPanelColumns, row, head, batch);
    end_copies_back();
  }
};

// Shared memory of a block: kFixedTiles tiles that stay for a piece of work, a ring of stages, kExtraBytes more for
// each stage, places that kResults results pass through, and barriers. Stages and fixed tiles are released by each
// warp, stages with more by each thread.
template <class Tile>
struct SharedParts {
  using Result = ResultTile<Tile::kDim>;
  static constexpr int kStages = Tile::kStages, kFixedTiles = Tile::kFixedTiles;
  static constexpr int kResultBytes = kComputingWarps * Result::Tile::kBytes;
  static constexpr int kBytes = kFixedTiles * Tile::kFixedBytes + kStages * (Tile::kStageBytes + Tile::kExtraBytes) +
                                Tile::kResults * kResultBytes + kFixedTiles * Ring<1>::kBytes + Ring<kStages>::kBytes;
  static_assert(Tile::kFixedBytes % 1024 == 0 && Tile::kStageBytes % 1024 == 0 && Tile::kExtraBytes % 16 == 0);

  std::uint32_t tiles, stages, results, extras;
  Ring<1> fixed[kFixedTiles];
  Ring<kStages> ring;

  __device__ explicit SharedParts(const unsigned char* shared)
      : tiles(shared_address(shared)),
        stages(tiles + kFixedTiles * Tile::kFixedBytes),
        results(stages + kStages * Tile::kStageBytes),
        extras(results + Tile::kResults * kResultBytes) {
    std::uint32_t barriers = extras + kStages * Tile::kExtraBytes;
#pragma unroll
    for (int i = 0; i < kFixedTiles; ++i) fixed[i].barriers = barriers, barriers += Ring<1>::kBytes;
    ring.barriers = barriers;
    if (threadIdx.x == 0) {
#pragma unroll
      for (int i = 0; i < kFixedTiles; ++i) fixed[i].init(kComputingWarps);
      ring.init(Tile::kExtraBytes > 0 ? kComputingThreads : kComputingWarps);
      publish_barriers();
    }
    __syncthreads();
  }
  __device__ std::uint32_t fixed_tile(int i) const {
    return tiles + i * Tile::kFixedBytes;
  }
  __device__ std::uint32_t stage(const Ring<kStages>& at) const {
    return stages + at.stage * Tile::kStageBytes;
  }
  __device__ std::uint32_t extra(const Ring<kStages>& at) const {
    return extras + at.stage * Tile::kExtraBytes;
  }
  __device__ std::uint32_t result(int i = 0) const {
    return results + i * kResultBytes + int(threadIdx.x) / 32 * Result::Tile::kBytes;
  }
};

}  // namespace cbq::cuda
