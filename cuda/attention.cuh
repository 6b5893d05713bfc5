// What the attention kernels share: arguments, the position of a block, tiles and their products on tensor cores.
//   p = softmax(scale q k^T + mask),  o = p v,  lse = log sum_j exp(scale q k_j);  query i sees keys 0 .. Tk - Tq + i
//   p = exp(scale q k^T - lse) again in backward, delta = rowsum(do o), ds = p (do v^T - delta):
//   dv = p^T do,  dq = scale ds k,  dk = scale ds^T q
#pragma once

#include <limits>

#include "cuda/mma.cuh"

namespace cbq::cuda {

template <class T>
struct AttentionForward {
  Heads<T> o;
  float* lse;  // (B,H,Tq), null if not wanted
  Heads<const T> q, k, v;
  float scale;
};

template <class T>
struct AttentionBackward {
  Heads<T> dq, dk, dv;  // data is null for what is not wanted
  Heads<const T> d_o, q, k, v, o;
  const float* lse;
  float scale;
};

// The paths of the forward pass; attention.cu says which is taken. Those of the backward pass: attention_gradients.cuh.
template <class T>
void attention_forward_plain(Context& ctx, const AttentionForward<T>& args);
void attention_forward_mma(Context& ctx, const AttentionForward<bf16>& args);
void attention_forward_wgmma(Context& ctx, const AttentionForward<bf16>& args);

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Row t of one head begins at data + t * stride.
template <class T>
struct HeadRows {
  T* data;
  std::int64_t stride;
  __device__ T* row(std::int64_t t) const { return data + t * stride; }
};

template <class T>
__device__ HeadRows<T> head_rows(const Heads<T>& x, std::int64_t b, std::int64_t h) {
  return {x.data + b * x.batch_stride + h * x.head_stride, x.token_stride};
}

// What a block works on: the blocks of one tile, over all heads, are neighbours. The caller orders tiles by falling
// work, so that no multiprocessor is left with a long one at the end.
struct BlockPosition {
  int tile, batch, head;
  std::int64_t batch_head;
};

__device__ inline BlockPosition block_position(unsigned block, std::int64_t batch, std::int64_t heads) {
  const unsigned count = unsigned(batch * heads), index = block % count;
  return {int(block / count), int(index / unsigned(heads)), int(index % unsigned(heads)), index};
}
__device__ inline BlockPosition block_position(std::int64_t batch, std::int64_t heads) {
  return block_position(blockIdx.x, batch, heads);
}

inline unsigned block_count(const char* kernel, std::int64_t tiles, std::int64_t batch, std::int64_t heads) {
  const std::int64_t count = tiles * batch * heads;
  require(count <= std::numeric_limits<int>::max(), kernel, ": ", count, " tiles are more than a grid holds");
  return unsigned(count);
}

// ---- tensor-core tiles. Heads of `dim` columns are padded with zeros to kDim = 32, 64 or 128 in shared memory.

// Calls fn.template operator()<kDim>().
template <class Fn>
void dispatch_dim(std::int64_t dim, const Fn& fn) {
  if (dim <= 32) return fn.template operator()<32>();
  if (dim <= 64) return fn.template operator()<64>();
  return fn.template operator()<128>();
}

// Copies tiles of kDim columns from one head; a thread has the same chunk of a row in every tile.
template <int kDim, int kThreads>
class TileCopier {
 public:
  TileCopier() = default;
  // Rows first .. end - 1; what lies behind them, and columns from `dim` on, are copied as zeros.
  __device__ TileCopier(const HeadRows<const bf16>& x, int first, int end, int dim)
      : from_(x.row(first + kRow()) + kChunk() * 8),
        stride_(x.stride),
        left_(kChunk() * 8 < dim ? end - first - kRow() : 0) {}

  // Starts the copy of the next kRows rows.
  template <int kRows>
  __device__ void copy(std::uint32_t tile) {
    static_assert(kThreads % kChunks == 0 && kRows % kRowsAtOnce == 0);
#pragma unroll
    for (int r = 0; r < kRows; r += kRowsAtOnce) {
      copy_async(tile + chunk_offset<kDim>(kRow() + r, kChunk()), from_, r < left_ ? 16 : 0);
      from_ += kRowsAtOnce * stride_;
    }
    left_ -= kRows;
  }

 private:
  static constexpr int kChunks = kDim / 8, kRowsAtOnce = kThreads / kChunks;
  static __device__ int kRow() {
    return int(threadIdx.x) / kChunks;
  }
  static __device__ int kChunk() {
    return int(threadIdx.x) % kChunks;
  }
  const bf16* from_ = nullptr;
  std::int64_t stride_ = 0;
  int left_ = 0;
};

// 16 kRowTiles rows of a warp by 8 kBlocks columns, in C fragments.
template <int kRowTiles, int kBlocks>
using Accumulator = FragmentC[kRowTiles][kBlocks];

template <int kRowTiles, int kBlocks>
__device__ void clear(Accumulator<kRowTiles, kBlocks>& c) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int j = 0; j < kBlocks; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) c[i][j][e] = 0;
}

// c = x y^T, x (16 kRowTiles, kDim) and y (8 kBlocks, kDim) in shared memory at the lane's offsets a and b.
template <int kDim, int kRowTiles, int kBlocks>
__device__ void multiply_transposed(Accumulator<kRowTiles, kBlocks>& c, std::uint32_t x, std::uint32_t y) {
  clear(c);
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    FragmentA a[kRowTiles];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) load_matrices(a[i], (x ^ 32 * k) + 16 * i * kRowBytes<kDim>);
#pragma unroll
    for (int j = 0; j < kBlocks / 2; ++j) {
      std::uint32_t b[4];
      load_matrices(b, (y ^ 32 * k) + 16 * j * kRowBytes<kDim>);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        multiply_add(c[i][2 * j], a[i], b[0], b[1]);
        multiply_add(c[i][2 * j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// c += bf16(p) y, p (16 kRowTiles, 8 kBlocks) in registers, y (8 kBlocks, kDim) in shared memory at the lane's offset
// a.
template <int kDim, int kRowTiles, int kBlocks>
__device__ void multiply(Accumulator<kRowTiles, kDim / 8>& c, const Accumulator<kRowTiles, kBlocks>& p,
                         std::uint32_t y) {
#pragma unroll
  for (int k = 0; k < kBlocks / 2; ++k) {
    FragmentA a[kRowTiles];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        a[i][e] = pack_bf16(p[i][2 * k + e / 2][e % 2 * 2], p[i][2 * k + e / 2][e % 2 * 2 + 1]);
#pragma unroll
    for (int j = 0; j < kDim / 16; ++j) {
      std::uint32_t b[4];
      load_matrices_transposed(b, (y ^ 32 * j) + 16 * k * kRowBytes<kDim>);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        multiply_add(c[i][2 * j], a[i], b[0], b[1]);
        multiply_add(c[i][2 * j + 1], a[i], b[2], b[3]);
      }
    }
  }
}

// Row i of the warp times factor[i / 8] to y; columns from `dim` and rows from `end` on are left out. `first` is this
// lane's first row.
template <int kRowTiles, int kBlocks>
__device__ void store_rows(const HeadRows<bf16>& y, const Accumulator<kRowTiles, kBlocks>& c,
                           const float (&factor)[kRowTiles][2], int first, int end, int dim) {
  const int column = int(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first + 16 * i + 8 * half;
      if (row >= end) continue;
      bf16* to = y.row(row) + column;
#pragma unroll
      for (int j = 0; j < kBlocks; ++j)
        if (8 * j < dim)
          *reinterpret_cast<std::uint32_t*>(to + 8 * j) =
              pack_bf16(c[i][j][2 * half] * factor[i][half], c[i][j][2 * half + 1] * factor[i][half]);
    }
}

}  // namespace cbq::cuda
