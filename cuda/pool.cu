#include "cuda/pool.h"

#include <limits>

namespace cbq::cuda {

PoolAllocator::PoolAllocator(int device, cudaStream_t stream, FreshMemory fresh) : stream_(stream), fresh_(fresh) {
  CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool_, device));
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  CUDA_CHECK(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep_all));
}

void* PoolAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  void* block = nullptr;
  const cudaError_t status = cudaMallocAsync(&block, std::size_t(bytes), stream_);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // the failed allocation leaves no sticky error behind
    fail(ErrorKind::out_of_memory, "memory: no room for ", bytes, " bytes on the GPU, ", bytes_in_use(),
         " bytes in use, ", bytes_free(), " bytes free");
  }
  check(status, "cudaMallocAsync");
  count_allocation(bytes);
  if (fresh_ == FreshMemory::nan_bytes) CUDA_CHECK(cudaMemsetAsync(block, 0xff, std::size_t(bytes), stream_));
  return block;
}

void PoolAllocator::deallocate(void* block, std::int64_t bytes) noexcept {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  count_release(bytes);
  CUDA_LOG(cudaFreeAsync(block, stream_));
}

void PoolAllocator::trim() {
  CUDA_CHECK(cudaStreamSynchronize(stream_));
  CUDA_CHECK(cudaMemPoolTrimTo(pool_, 0));
}

std::int64_t PoolAllocator::bytes_free() const {
  std::size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  std::uint64_t reserved = 0, used = 0;
  CUDA_CHECK(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved));
  CUDA_CHECK(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrUsedMemCurrent, &used));
  return std::int64_t(free + reserved - used);
}

void* PinnedAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  void* block = nullptr;
  const cudaError_t status = cudaHostAlloc(&block, std::size_t(bytes), cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(ErrorKind::out_of_memory, "memory: no room for ", bytes, " bytes of page-locked host memory, ", bytes_in_use(),
         " bytes in use");
  }
  check(status, "cudaHostAlloc");
  count_allocation(bytes);
  return block;
}

void PinnedAllocator::deallocate(void* block, std::int64_t bytes) noexcept {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  count_release(bytes);
  CUDA_LOG(cudaFreeHost(block));
}

}  // namespace cbq::cuda
