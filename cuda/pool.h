// Device memory from CUDA's stream-ordered pool.
#pragma once

#include "core/allocator.h"
#include "cuda/check.h"

namespace cbq::cuda {

// Blocks belong to one stream. A freed block is kept and given to the next request of the same size: what the stream
// does with it then runs behind all that was queued before, so a step that repeats never asks the driver. Kept blocks
// take the device at most an eighth and 256 MB beyond the peak of use; else, in trim(), and when memory is short they
// go back to the driver's pool, which keeps them until trim() for requests of any size.
class PoolAllocator final : public Allocator {
 public:
  PoolAllocator(int device, cudaStream_t stream, FreshMemory fresh);
  ~PoolAllocator() override;
  void* allocate(std::int64_t bytes) override;
  void deallocate(void* block, std::int64_t bytes) noexcept override;
  void trim() override;
  // Freed memory that is kept for the next request, here and in the driver's pool.
  std::int64_t bytes_kept() const;

 private:
  void* take_kept(std::int64_t size);  // null: none of this size
  void* from_driver(std::int64_t size, std::int64_t bytes);
  void give_up_kept() noexcept;

  cudaMemPool_t pool_ = nullptr;  // the device's default pool, owned by the driver
  cudaStream_t stream_;
  FreshMemory fresh_;
  mutable std::mutex mutex_;
  std::unordered_map<std::int64_t, std::vector<void*>> kept_;  // by size in bytes
  std::int64_t kept_bytes_ = 0;
};

// Page-locked host memory, which the GPU copies from and to without a detour. Small blocks are kept when they are
// freed: locking and unlocking pages stops the GPU's queue.
class PinnedAllocator final : public Allocator {
 public:
  ~PinnedAllocator() override;
  void* allocate(std::int64_t bytes) override;
  void deallocate(void* block, std::int64_t bytes) noexcept override;
  void trim() override;

 private:
  void free_kept() noexcept;

  std::mutex mutex_;
  std::unordered_map<std::int64_t, std::vector<void*>> kept_;  // by size in bytes
};

}  // namespace cbq::cuda
