// Copies of whole tiles from global to shared memory by the copy unit of compute capability 9.0 (TMA), and the barriers
// in shared memory (mbarrier) that tell when they have arrived. One thread starts a copy; no other thread, and no
// register, takes part.
#pragma once

#include <cuda.h>

#include "cuda/mma.cuh"

namespace cbq::cuda {

// How the copy unit sees the heads of a tensor: tiles of `rows` tokens by 64 columns of one head, in shared memory rows
// of 128 bytes, the 16-byte chunks of a row permuted as chunk_offset<64>() of mma.cuh says. Rows behind the last token
// are zeros. Pointer and strides are multiples of 16 bytes.
CUtensorMap tensor_map(const Heads<const bf16>& x, int rows);
inline CUtensorMap tensor_map(const Heads<bf16>& x, int rows) {
  return tensor_map(
      Heads<const bf16>{x.data, x.batch, x.tokens, x.heads, x.dim, x.batch_stride, x.token_stride, x.head_stride},
      rows);
}

constexpr int kPanelColumns = 64, kPanelRowBytes = kPanelColumns * int(sizeof(bf16));

// A barrier is an 8-byte word; a phase of it ends when `arrivals` threads have arrived and all bytes announced are
// there. Phases are counted modulo 2.
__device__ inline void init_barrier(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes the initial state visible to the copy unit; a __syncthreads() must follow.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void arrive_expecting(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// Waits until phase number `phase` has ended.
__device__ inline void wait_barrier(std::uint32_t barrier, unsigned phase) {
  unsigned ended;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(ended)
        : "r"(barrier), "r"(phase & 1)
        : "memory");
  } while (!ended);
}

// Starts the copy of one tile of the map, whose bytes then count at the barrier.
__device__ inline void copy_tile(std::uint32_t to, const CUtensorMap& map, int column, int row, int head, int batch,
                                 std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(head), "r"(batch), "r"(barrier)
      : "memory");
}
// The same for contiguous memory; a multiple of 16 bytes at a multiple of 16.
__device__ inline void copy_bytes(std::uint32_t to, const void* from, int bytes, std::uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}

// The way back, for a tile that threads have written: each calls publish_writes(), then, behind a barrier of theirs,
// one starts the copy. Rows behind the last token are left out. That thread's await_reads() returns when its tiles may
// be written again.
__device__ inline void publish_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void copy_tile_back(const CUtensorMap& map, std::uint32_t from, int column, int row, int head,
                                      int batch) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&map),
               "r"(column), "r"(row), "r"(head), "r"(batch), "r"(from)
               : "memory");
}
__device__ inline void end_copies_back() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ inline void await_reads() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Position in a ring of kStages tiles, each with two barriers: full[stage] and kStages behind it empty[stage]. The
// producer starts at position 0 too: waiting for the phase before the first passes at once.
template <int kStages>
struct Ring {
  std::uint32_t barriers;
  int stage = 0;
  unsigned phase = 0;

  __device__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
  __device__ std::uint32_t full() const { return barriers + 8 * stage; }
  __device__ std::uint32_t empty() const { return barriers + 8 * (kStages + stage); }
  __device__ void init(int consumers) const {
    for (int i = 0; i < kStages; ++i)
      init_barrier(barriers + 8 * i, 1), init_barrier(barriers + 8 * (kStages + i), consumers);
  }
  // Producer: takes the stage when all have left it.
  __device__ void acquire(int bytes) const {
    wait_barrier(empty(), phase ^ 1);
    arrive_expecting(full(), bytes);
  }
  __device__ void wait() const { wait_barrier(full(), phase); }
  // Consumer, once a warp.
  __device__ void release() const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(empty());
  }
  // Consumer, where each thread has read the stage by loads of its own: racecheck does not follow the arrival of one
  // thread for its warp.
  __device__ void release_each() const { arrive(empty()); }
  static constexpr int kBytes = 16 * kStages;
};

}  // namespace cbq::cuda
