// Device memory from CUDA's stream-ordered pool.
#pragma once

#include "core/allocator.h"
#include "cuda/check.h"

namespace cbq::cuda {

// Blocks belong to one stream; the pool keeps freed memory until trim(), so that a step that repeats allocates nothing.
class PoolAllocator final : public Allocator {
 public:
  PoolAllocator(int device, cudaStream_t stream, FreshMemory fresh);
  void* allocate(std::int64_t bytes) override;
  void deallocate(void* block, std::int64_t bytes) noexcept override;
  void trim() override;
  // What it can still hand out: free on the GPU, or freed and kept for the next request.
  std::int64_t bytes_free() const;

 private:
  cudaMemPool_t pool_ = nullptr;  // the device's default pool, owned by the driver
  cudaStream_t stream_;
  FreshMemory fresh_;
  std::mutex mutex_;
};

// Page-locked host memory, which the GPU copies from and to without a detour.
class PinnedAllocator final : public Allocator {
 public:
  void* allocate(std::int64_t bytes) override;
  void deallocate(void* block, std::int64_t bytes) noexcept override;
  void trim() override {}

 private:
  std::mutex mutex_;
};

}  // namespace cbq::cuda
