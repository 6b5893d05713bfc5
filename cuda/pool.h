// Device memory from CUDA's stream-ordered pool.
#pragma once

#include "core/allocator.h"
#include "cuda/check.h"

namespace cbq::cuda {

// Blocks that nobody uses, by size.
class FreeBlocks {
 public:
  void put(void* block, std::int64_t size) {
    blocks_[size].push_back(block);
    bytes_ += size;
  }
  // Null if there is none of this size.
  void* take(std::int64_t size);
  std::int64_t bytes() const { return bytes_; }
  // Calls fn(block, size) for each and forgets them.
  template <class Fn>
  void take_all(const Fn& fn) {
    for (const auto& [size, blocks] : blocks_)
      for (void* block : blocks) fn(block, size);
    blocks_.clear();
    bytes_ = 0;
  }

 private:
  std::unordered_map<std::int64_t, std::vector<void*>> blocks_;
  std::int64_t bytes_ = 0;
};

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
  // What it can still hand out: free on the GPU, or freed and kept for the next request.
  std::int64_t bytes_free() const;

  // While a step is recorded the driver must not be asked: what it gave then would be a part of the recording. Blocks
  // come from those kept, which is all of them when the same step ran before, else allocate() throws Error{failure}.
  void begin_recording();
  // The blocks that were freed since. The recorded work writes to their addresses each time it runs, so nobody else may
  // have them until they are given back; blocks that are still in use are their owners' to keep.
  FreeBlocks end_recording() noexcept;
  void give_back(FreeBlocks blocks) noexcept;

 private:
  void* from_driver(std::int64_t size, std::int64_t bytes);
  void give_up_kept() noexcept;
  std::int64_t free_bytes() const;  // bytes_free() with the lock held
  void put(FreeBlocks& blocks, void* block, std::int64_t size) noexcept;

  cudaMemPool_t pool_ = nullptr;  // the device's default pool, owned by the driver
  cudaStream_t stream_;
  FreshMemory fresh_;
  mutable std::mutex mutex_;
  bool is_recording_ = false;
  FreeBlocks kept_, recorded_;       // recorded_: freed since begin_recording()
  std::int64_t reserved_bytes_ = 0;  // of what end_recording() handed out
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
  FreeBlocks kept_;
};

}  // namespace cbq::cuda
