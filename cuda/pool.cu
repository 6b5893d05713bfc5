#include "cuda/pool.h"

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

namespace cbq::cuda {
namespace {

constexpr std::int64_t kGranularity = 512;  // bytes, of the driver's pool
// Beyond the peak of use: sizes that follow each other in a step are kept side by side.
constexpr std::int64_t kShareKept = 8, kBytesKept = 256 << 20;
constexpr std::int64_t kSmallPinned = 64 << 10;  // bytes: results on their way to the host, not samples

std::int64_t padded(std::int64_t bytes) {
  return (bytes + kGranularity - 1) / kGranularity * kGranularity;
}

}  // namespace

void* FreeBlocks::take(std::int64_t size) {
  const auto found = blocks_.find(size);
  if (found == blocks_.end() || found->second.empty()) return nullptr;
  void* block = found->second.back();
  found->second.pop_back();
  bytes_ -= size;
  return block;
}

PoolAllocator::PoolAllocator(int device, cudaStream_t stream, FreshMemory fresh) : stream_(stream), fresh_(fresh) {
  CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool_, device));
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  CUDA_CHECK(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
}

// The stream may be gone by now, so what is kept is freed in no stream's order.
PoolAllocator::~PoolAllocator() {
  kept_.take_all([](void* block, std::int64_t) { CUDA_LOG(cudaFree(block)); });
}

void* PoolAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  const std::int64_t size = padded(bytes);
  void* block = is_recording_ ? recorded_.take(size) : nullptr;
  if (!block) block = kept_.take(size);
  if (!block) block = from_driver(size, bytes);
  count_allocation(bytes);
  if (fresh_ == FreshMemory::nan_bytes) CUDA_CHECK(cudaMemsetAsync(block, 0xff, std::size_t(bytes), stream_));
  return block;
}

void PoolAllocator::deallocate(void* block, std::int64_t bytes) noexcept {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  count_release(bytes);
  put(is_recording_ ? recorded_ : kept_, block, padded(bytes));
}

void PoolAllocator::put(FreeBlocks& blocks, void* block, std::int64_t size) noexcept {
  try {
    blocks.put(block, size);
  } catch (const std::bad_alloc&) {
    CUDA_LOG(cudaFreeAsync(block, stream_));
  }
}

void* PoolAllocator::from_driver(std::int64_t size, std::int64_t bytes) {
  require(!is_recording_, "memory: no block of ", bytes, " bytes is kept for the step that is recorded");
  const std::int64_t peak = std::max(peak_bytes(), bytes_in_use() + bytes);
  if (bytes_in_use() + size + reserved_bytes_ + kept_.bytes() > peak + peak / kShareKept + kBytesKept) give_up_kept();
  void* block = nullptr;
  cudaError_t status = cudaMallocAsync(&block, std::size_t(size), stream_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the failed allocation leaves no sticky error behind
    give_up_kept();
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    CUDA_CHECK(cudaMemPoolTrimTo(pool_, 0));  // blocks of other sizes become memory for this one
    status = cudaMallocAsync(&block, std::size_t(size), stream_);
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(ErrorKind::out_of_memory, "memory: no room for ", bytes, " bytes on the GPU, ", bytes_in_use(),
         " bytes in use, ", free_bytes(), " bytes free");
  }
  check(status, "cudaMallocAsync");
  return block;
}

void PoolAllocator::give_up_kept() noexcept {
  kept_.take_all([this](void* block, std::int64_t) { CUDA_LOG(cudaFreeAsync(block, stream_)); });
}

void PoolAllocator::begin_recording() {
  const std::lock_guard lock(mutex_);
  require(!is_recording_, "memory: a recording is in progress");
  is_recording_ = true;
}

FreeBlocks PoolAllocator::end_recording() noexcept {
  const std::lock_guard lock(mutex_);
  is_recording_ = false;
  reserved_bytes_ += recorded_.bytes();
  return std::exchange(recorded_, FreeBlocks());
}

void PoolAllocator::give_back(FreeBlocks blocks) noexcept {
  const std::lock_guard lock(mutex_);
  reserved_bytes_ -= blocks.bytes();
  blocks.take_all([this](void* block, std::int64_t size) { put(kept_, block, size); });
}

void PoolAllocator::trim() {
  const std::lock_guard lock(mutex_);
  give_up_kept();
  CUDA_CHECK(cudaStreamSynchronize(stream_));
  CUDA_CHECK(cudaMemPoolTrimTo(pool_, 0));
}

std::int64_t PoolAllocator::bytes_free() const {
  const std::lock_guard lock(mutex_);
  return free_bytes();
}

std::int64_t PoolAllocator::free_bytes() const {
  std::size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  std::uint64_t reserved = 0, used = 0;
  CUDA_CHECK(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
  CUDA_CHECK(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used));
  return std::int64_t(free + reserved - used) + kept_.bytes();
}

PinnedAllocator::~PinnedAllocator() {
  free_kept();
}

void* PinnedAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  void* block = kept_.take(bytes);
  if (!block) {
    const cudaError_t status = cudaHostAlloc(&block, std::size_t(bytes), cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      fail(ErrorKind::out_of_memory, "memory: no room for ", bytes, " bytes of page-locked host memory, ",
           bytes_in_use(), " bytes in use");
    }
    check(status, "cudaHostAlloc");
  }
  count_allocation(bytes);
  return block;
}

void PinnedAllocator::deallocate(void* block, std::int64_t bytes) noexcept {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  count_release(bytes);
  try {
    if (bytes <= kSmallPinned) return kept_.put(block, bytes);
  } catch (const std::bad_alloc&) {
  }
  CUDA_LOG(cudaFreeHost(block));
}

void PinnedAllocator::free_kept() noexcept {
  kept_.take_all([](void* block, std::int64_t) { CUDA_LOG(cudaFreeHost(block)); });
}

void PinnedAllocator::trim() {
  const std::lock_guard lock(mutex_);
  free_kept();
}

}  // namespace cbq::cuda
