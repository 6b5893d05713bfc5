#include "cuda/pool.h"

#include <algorithm>
#include <limits>
#include <new>

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

PoolAllocator::PoolAllocator(int device, cudaStream_t stream, FreshMemory fresh) : stream_(stream), fresh_(fresh) {
  CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool_, device));
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  CUDA_CHECK(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
}

// The stream may be gone by now, so what is kept is freed in no stream's order.
PoolAllocator::~PoolAllocator() {
  for (const auto& [size, blocks] : kept_)
    for (void* block : blocks) CUDA_LOG(cudaFree(block));
}

void* PoolAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  const std::int64_t size = padded(bytes);
  void* block = take_kept(size);
  if (!block) block = from_driver(size, bytes);
  count_allocation(bytes);
  if (fresh_ == FreshMemory::nan_bytes) CUDA_CHECK(cudaMemsetAsync(block, 0xff, std::size_t(bytes), stream_));
  return block;
}

void PoolAllocator::deallocate(void* block, std::int64_t bytes) noexcept {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  count_release(bytes);
  try {
    kept_[padded(bytes)].push_back(block);
    kept_bytes_ += padded(bytes);
  } catch (const std::bad_alloc&) {
    CUDA_LOG(cudaFreeAsync(block, stream_));
  }
}

void* PoolAllocator::take_kept(std::int64_t size) {
  const auto found = kept_.find(size);
  if (found == kept_.end() || found->second.empty()) return nullptr;
  void* block = found->second.back();
  found->second.pop_back();
  kept_bytes_ -= size;
  return block;
}

void* PoolAllocator::from_driver(std::int64_t size, std::int64_t bytes) {
  const std::int64_t peak = std::max(peak_bytes(), bytes_in_use() + bytes);
  if (bytes_in_use() + size + kept_bytes_ > peak + peak / kShareKept + kBytesKept) give_up_kept();
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
    fail(ErrorKind::failure, "memory: no room for ", bytes, " bytes on the GPU, ", bytes_in_use(), " bytes in use");
  }
  check(status, "cudaMallocAsync");
  return block;
}

void PoolAllocator::give_up_kept() noexcept {
  for (const auto& [size, blocks] : kept_)
    for (void* block : blocks) CUDA_LOG(cudaFreeAsync(block, stream_));
  kept_.clear();
  kept_bytes_ = 0;
}

void PoolAllocator::trim() {
  const std::lock_guard lock(mutex_);
  give_up_kept();
  CUDA_CHECK(cudaStreamSynchronize(stream_));
  CUDA_CHECK(cudaMemPoolTrimTo(pool_, 0));
}

std::int64_t PoolAllocator::bytes_kept() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t reserved = 0, used = 0;
  CUDA_CHECK(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
  CUDA_CHECK(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used));
  return std::int64_t(reserved - used) + kept_bytes_;
}

PinnedAllocator::~PinnedAllocator() {
  free_kept();
}

void* PinnedAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  void* block = nullptr;
  if (const auto found = kept_.find(bytes); found != kept_.end() && !found->second.empty()) {
    block = found->second.back();
    found->second.pop_back();
  } else {
    const cudaError_t status = cudaHostAlloc(&block, std::size_t(bytes), cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      fail(ErrorKind::failure, "memory: no room for ", bytes, " bytes of page-locked host memory, ", bytes_in_use(),
           " bytes in use");
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
    if (bytes <= kSmallPinned) return kept_[bytes].push_back(block);
  } catch (const std::bad_alloc&) {
  }
  CUDA_LOG(cudaFreeHost(block));
}

void PinnedAllocator::free_kept() noexcept {
  for (const auto& [bytes, blocks] : kept_)
    for (void* block : blocks) CUDA_LOG(cudaFreeHost(block));
  kept_.clear();
}

void PinnedAllocator::trim() {
  const std::lock_guard lock(mutex_);
  free_kept();
}

}  // namespace cbq::cuda
