#include "core/allocator.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.h"

namespace cbq {
namespace {

constexpr std::int64_t kAlignment = 64;  // bytes: a cache line, and the widest vector load

std::int64_t padded(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

HostAllocator::~HostAllocator() {
  trim();
}

void* HostAllocator::allocate(std::int64_t bytes) {
  if (bytes == 0) return nullptr;
  const std::lock_guard lock(mutex_);
  auto& kept = kept_[bytes];
  void* block = nullptr;
  if (!kept.empty()) {
    block = kept.back();
    kept.pop_back();
  } else {
    block = std::aligned_alloc(std::size_t(kAlignment), std::size_t(padded(bytes)));
    if (!block)
      fail(ErrorKind::out_of_memory, "memory: no room for ", bytes, " bytes on the host, ", bytes_in_use(),
           " bytes in use");
  }
  count_allocation(bytes);
  if (fresh_ == FreshMemory::nan_bytes) std::memset(block, 0xff, std::size_t(bytes));
  return block;
}

void HostAllocator::deallocate(void* block, std::int64_t bytes) noexcept {
  if (!block) return;
  const std::lock_guard lock(mutex_);
  count_release(bytes);
  try {
    kept_[bytes].push_back(block);
  } catch (const std::bad_alloc&) {
    std::free(block);
  }
}

void HostAllocator::trim() {
  const std::lock_guard lock(mutex_);
  for (auto& [bytes, blocks] : kept_)
    for (void* block : blocks) std::free(block);
  kept_.clear();
}

}  // namespace cbq
