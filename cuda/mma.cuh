// Tensor-core building blocks of bf16 kernels (compute capability 8.0 and up), each one PTX instruction, and the
// swizzled shared-memory tile that feeds them.
//
// Fragments of mma.m16n8k16, lane = 4 g + t: A (16,16) holds rows g and g + 8, columns 2t, 2t+1 and 8 above; B (16,8)
// holds rows 2t, 2t+1 and 8 above of column g; C (16,8) holds rows g (values 0, 1) and g + 8 (values 2, 3), columns 2t,
// 2t+1. So two neighbouring C blocks, rounded to bf16, are an A: a product's result feeds the next one from registers.
#pragma once

#include <cstdint>

#include "cuda/value.cuh"

namespace cbq::cuda {

using FragmentA = std::uint32_t[4];
using FragmentC = float[4];

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes from global to shared memory, past the registers and the first cache level; `bytes` (16 or
// 0) are read, the rest is zero.
__device__ inline void copy_async(std::uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
// 16 bytes, and the rest of their 128 into the L2 cache.
__device__ inline void copy_async(std::uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ inline void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits for the copies of this thread up to the last kCommits commits; a __syncthreads() must follow before others read
// them.
template <int kCommits = 0>
__device__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kCommits) : "memory");
}

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8.
__device__ inline void load_matrices(std::uint32_t (&m)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}
__device__ inline void load_matrices_transposed(std::uint32_t (&m)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
               : "r"(address)
               : "memory");
}

// c += a b, exact products, f32 sums.
__device__ inline void multiply_add(FragmentC& c, const FragmentA& a, std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to a pair of bf16, `low` at the lower address.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// 2^x with a relative error of 2^-22, far below the rounding to bf16 that follows; 0 below the normal range.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ---- shared-memory tiles: rows of kDim bf16 (32, 64 or 128), the 16-byte chunks of a row permuted so that the eight
// rows an 8x8 matrix comes from lie in different banks

template <int kDim>
constexpr int kRowBytes = kDim* int(sizeof(bf16));

// Byte offset of a chunk. 16 rows further is 16 row lengths further, and 2 n chunks further is an xor with 32 n.
template <int kDim>
__device__ std::uint32_t chunk_offset(int row, int chunk) {
  static_assert(kDim == 32 || kDim == 64 || kDim == 128);
  const int key = kDim == 32 ? row / 2 % 4 : row % 8;
  return std::uint32_t(row * kRowBytes<kDim> + (chunk ^ key) * 16);
}

// Where a lane reads 16 rows by 16 columns, from the tile's first row on. Tiles start at multiples of 256 bytes.
//   a: as A of a product (load_matrices), or as B, rows times columns (load_matrices_transposed)
//   b: as the transpose of B (load_matrices)
template <int kDim>
__device__ std::uint32_t lane_offset_a(int lane) {
  return chunk_offset<kDim>(lane % 16, lane / 16);
}
template <int kDim>
__device__ std::uint32_t lane_offset_b(int lane) {
  return chunk_offset<kDim>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}

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

}  // namespace cbq::cuda
