// What the plain attention kernels share (formulas in attention.cuh), which take every type, head size and alignment
// and multiply in f32.
//
// 256 threads, a 16 x 16 grid (ty, tx), own a tile of rows and walk over tiles of columns. Thread (ty, tx) computes the
// scores of rows ty + 16 i and columns tx + 16 j, so that a row belongs to one half of a warp; of the results it keeps
// rows ty + 16 i, columns 4 (tx + 16 j) .. + 3. Tiles hold 32 rows of up to 128 values or 16 of up to 256.
#pragma once

#include "cuda/attention.cuh"

namespace cbq::cuda {

constexpr int kSide = 16, kThreads = kSide * kSide;

template <int kDim_>
struct PlainTile {
  static constexpr int kDim = kDim_, kRows = 4096 / kDim, kPer = kRows / kSide, kQuads = kDim / (4 * kSide);
};

// A tile of kRows rows of `stride` floats, zero behind the end of the data. The stride is 4 times an odd number:
// 16-byte reads of eight rows lie in different banks.
struct SharedRows {
  float* data;
  int stride;
  __device__ float4& quad(int row, int column) const {
    return *reinterpret_cast<float4*>(data + row * stride + column);
  }
};

__host__ __device__ constexpr int stride_of(int dim) {
  return 4 * ((dim + 3) / 4 | 1);
}

template <class Tile, class T>
__device__ void load(const SharedRows& to, const HeadRows<const T>& from, int first, int end, int dim) {
  for (int i = int(threadIdx.x); i < Tile::kRows * to.stride; i += kThreads) {
    const int r = i / to.stride, c = i % to.stride;
    to.data[i] = first + r < end && c < dim ? to_float(from.row(first + r)[c]) : 0.0f;
  }
}

__device__ inline float dot(const float4& a, const float4& b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

template <class Tile>
using PlainScores = float[Tile::kPer][Tile::kPer];

// s = x y^T
template <class Tile>
__device__ void scores(PlainScores<Tile>& s, const SharedRows& x, const SharedRows& y) {
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide;
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kPer; ++j) s[i][j] = 0;
#pragma unroll 2
  for (int c = 0; c < x.stride; c += 4) {
    float4 of_x[Tile::kPer], of_y[Tile::kPer];
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i) of_x[i] = x.quad(ty + kSide * i, c), of_y[i] = y.quad(tx + kSide * i, c);
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kPer; ++j) s[i][j] = dot(of_x[i], of_y[j], s[i][j]);
  }
}

// A result of the tile's rows, in registers.
template <class Tile>
struct PlainResult {
  float4 of[Tile::kPer][Tile::kQuads];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kQuads; ++j) of[i][j] = {0, 0, 0, 0};
  }

  __device__ void scale(int i, float factor) {
#pragma unroll
    for (int j = 0; j < Tile::kQuads; ++j)
      of[i][j].x *= factor, of[i][j].y *= factor, of[i][j].z *= factor, of[i][j].w *= factor;
  }

  // += p y, the scores p passed through `exchange` (kRows, kRows + 1), in which a half warp touches its own rows alone.
  __device__ void add_product(const PlainScores<Tile>& p, const SharedRows& y, float* exchange) {
    constexpr int kStride = Tile::kRows + 1;
    const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kPer; ++j) exchange[(ty + kSide * i) * kStride + tx + kSide * j] = p[i][j];
    __syncwarp();
#pragma unroll 2
    for (int k = 0; k < Tile::kRows; ++k)
#pragma unroll
      for (int j = 0; j < Tile::kQuads; ++j) {
        const int column = 4 * (tx + kSide * j);
        if (column >= y.stride) continue;
        const float4 value = y.quad(k, column);
#pragma unroll
        for (int i = 0; i < Tile::kPer; ++i) {
          const float factor = exchange[(ty + kSide * i) * kStride + k];
          of[i][j].x = fmaf(factor, value.x, of[i][j].x), of[i][j].y = fmaf(factor, value.y, of[i][j].y);
          of[i][j].z = fmaf(factor, value.z, of[i][j].z), of[i][j].w = fmaf(factor, value.w, of[i][j].w);
        }
      }
  }

  template <class T>
  __device__ void store(const HeadRows<T>& to, int first, int end, int dim) const {
    const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide;
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
      for (int j = 0; j < Tile::kQuads; ++j) {
        const int row = first + ty + kSide * i, column = 4 * (tx + kSide * j);
        const float value[4] = {of[i][j].x, of[i][j].y, of[i][j].z, of[i][j].w};
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (row < end && column + e < dim) to.row(row)[column + e] = from_float<T>(value[e]);
      }
  }
};

// Launches a plain kernel: one block a tile of `tokens` and a head; `tiles` tiles in shared memory.
template <class Tile, class Kernel, class... Args>
void launch_plain(const char* name, Context& ctx, Kernel kernel, int shared_tiles, std::int64_t tokens,
                  std::int64_t batch, std::int64_t heads, std::int64_t dim, const Args&... args) {
  const int floats = shared_tiles * Tile::kRows * stride_of(int(dim)) + Tile::kRows * (Tile::kRows + 1);
  const int bytes = floats * int(sizeof(float));
  const unsigned blocks = block_count(name, (tokens + Tile::kRows - 1) / Tile::kRows, batch, heads);
  if (blocks == 0) return;
  launch(name, ctx, {blocks, kThreads, std::size_t(bytes)}, kernel, args...);
}

// Calls fn.template operator()<Tile>() with the tile for heads of `dim` columns.
template <class Fn>
void dispatch_plain(std::int64_t dim, const Fn& fn) {
  if (dim <= 128) return fn.template operator()<PlainTile<128>>();
  return fn.template operator()<PlainTile<256>>();
}

}  // namespace cbq::cuda
