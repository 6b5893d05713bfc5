// Matrix instructions of compute capability 9.0 (wgmma): a warpgroup, four neighbouring warps, multiplies tiles that
// lie in shared memory, while its threads do something else. Results stay in registers, in the layout of mma.cuh: warp
// w has rows 16 w .. 16 w + 15, in C fragments of 8 columns each, and two neighbouring C fragments rounded to bf16 are
// an A fragment.
//
// Order of use: begin_products(), products, end_products(), which makes them a group; the registers of results and of A
// fragments must not be touched until await_products(). A tile in shared memory consists of panels: all its rows by 64
// columns, as the copies of bulk_copy.cuh leave them.
#pragma once

#include "cuda/bulk_copy.cuh"

namespace cbq::cuda {

constexpr int kWarpgroup = 128;  // threads

// Architecture-specific instructions: other targets get kernels without a body, which are never launched.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define CBQ_HAS_WGMMA 1
#else
#define CBQ_HAS_WGMMA 0
#endif

// The warpgroup of this thread, in a form that tells the compiler that all threads of a warp agree.
__device__ inline int warpgroup_index() {
  return __shfl_sync(0xffffffffu, int(threadIdx.x) / kWarpgroup, 0);
}

// A warpgroup gives back registers, or waits for some that others gave back; a multiple of 8 per thread from then on.
template <int kRegisters>
__device__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void end_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Keeps the compiler from using c before this line.
template <int kBlocks>
__device__ void hold(FragmentC (&c)[kBlocks]) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) asm volatile("" : "+f"(c[j][e])::"memory");
}
// Waits until all but the last kLeft ended groups of products are finished; c are results of these.
template <int kLeft, int... kBlocks>
__device__ void await_products(FragmentC (&... c)[kBlocks]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
  (hold(c), ...);
}

// The descriptor of a tile at `address`, a multiple of 1024 plus the offset of a 16-byte chunk. `panel_bytes` is the
// distance of panels, used where 64 columns are not enough; groups of 8 rows are 1024 bytes apart.
__device__ inline std::uint64_t matrix(std::uint32_t address, int panel_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t(1) << 62, kGroups = std::uint64_t(8 * kPanelRowBytes / 16) << 32;
  return kSwizzle128 | kGroups | std::uint64_t(panel_bytes / 16) << 16 | (address & 0x3ffff) >> 4;
}

// The reverse of load_matrices() in mma.cuh: four 8x8 matrices to rows in shared memory, lane l giving the address of
// row l % 8 of matrix l / 8.
__device__ inline void store_matrices(std::uint32_t address, std::uint32_t m0, std::uint32_t m1, std::uint32_t m2,
                                      std::uint32_t m3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(m0), "r"(m1),
               "r"(m2), "r"(m3)
               : "memory");
}

#define CBQ_FRAGMENT(c, j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define CBQ_FRAGMENTS_8(c, j)                                                                                         \
  CBQ_FRAGMENT(c, j), CBQ_FRAGMENT(c, j + 1), CBQ_FRAGMENT(c, j + 2), CBQ_FRAGMENT(c, j + 3), CBQ_FRAGMENT(c, j + 4), \
      CBQ_FRAGMENT(c, j + 5), CBQ_FRAGMENT(c, j + 6), CBQ_FRAGMENT(c, j + 7)
#define CBQ_OPERANDS_32                                                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CBQ_OPERANDS_64                                                                                              \
  CBQ_OPERANDS_32                                                                                                    \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
  "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// c = x y^T or c += x y^T for 16 columns of 64 rows x and of 8 kBlocks rows y.
enum class Onto { zero, result };
__device__ inline void multiply_rows(FragmentC (&c)[8], std::uint64_t x, std::uint64_t y, Onto onto) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CBQ_OPERANDS_32
      "}, %32, %33, p, 1, 1, 0, 0;\n"
      "}\n"
      : CBQ_FRAGMENTS_8(c, 0)
      : "l"(x), "l"(y), "r"(int(onto)));
}
__device__ inline void multiply_rows(FragmentC (&c)[16], std::uint64_t x, std::uint64_t y, Onto onto) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" CBQ_OPERANDS_64
      "}, %64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : CBQ_FRAGMENTS_8(c, 0), CBQ_FRAGMENTS_8(c, 8)
      : "l"(x), "l"(y), "r"(int(onto)));
}
// c += a y for 16 columns a of 64 rows, in registers, and 16 rows y of 8 kBlocks columns.
__device__ inline void multiply_columns(FragmentC (&c)[8], const FragmentA& a, std::uint64_t y) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CBQ_OPERANDS_32
               "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : CBQ_FRAGMENTS_8(c, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(y));
}
__device__ inline void multiply_columns(FragmentC (&c)[16], const FragmentA& a, std::uint64_t y) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" CBQ_OPERANDS_64
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : CBQ_FRAGMENTS_8(c, 0), CBQ_FRAGMENTS_8(c, 8)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(y));
}

}  // namespace cbq::cuda
