// Memory by address, 16 bytes at a time, for loops whose registers are all taken: what the compiler makes of pointers
// and structs there costs instructions.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cbq::cuda {

// Shared memory by its address: 16 bytes of words, and floats.
__device__ inline uint4 load_words(std::uint32_t address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "r"(address));
  return x;
}
__device__ inline void store_float(std::uint32_t address, float x) {
  asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
}
__device__ inline void store_floats(std::uint32_t address, float x, float y) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(x), "f"(y) : "memory");
}
// 16 bytes of global memory that nothing reads again, past the first cache level, and 16 bytes to it.
__device__ inline uint4 stream_words(const char* from) {
  uint4 x;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "l"(from));
  return x;
}
__device__ inline void stream_words(char* to, const uint4& x) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
// The same value, but one that the compiler keeps in a register: in a loop that fills them all it would otherwise work
// out addresses anew at every use, which here took a third of the instructions.
__device__ inline std::uint32_t keep(std::uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}
template <class T>
__device__ T* keep(T* x) {
  asm volatile("" : "+l"(x));
  return x;
}

}  // namespace cbq::cuda
