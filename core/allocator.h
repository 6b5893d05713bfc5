// Memory of one device, counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace cbq {

// Hands out blocks of device memory and counts them. Implementations are thread-safe.
class Allocator {
 public:
  virtual ~Allocator() = default;

  // A block of at least `bytes`, aligned to 64 bytes; null only for 0 bytes. Contents are undefined.
  // Throws Error{out_of_memory} that states the bytes asked for and in use when the memory is not there.
  virtual void* allocate(std::int64_t bytes) = 0;
  virtual void deallocate(void* block, std::int64_t bytes) noexcept = 0;
  // Returns blocks kept for reuse to the system.
  virtual void trim() = 0;

  std::int64_t bytes_in_use() const { return bytes_in_use_; }
  std::int64_t peak_bytes() const { return peak_bytes_; }
  void reset_peak() { peak_bytes_ = bytes_in_use_; }

 protected:
  void count_allocation(std::int64_t bytes) {
    bytes_in_use_ += bytes;
    if (bytes_in_use_ > peak_bytes_) peak_bytes_ = bytes_in_use_;
  }
  void count_release(std::int64_t bytes) { bytes_in_use_ -= bytes; }

 private:
  std::int64_t bytes_in_use_ = 0, peak_bytes_ = 0;
};

// What a fresh block holds: nan_bytes (0xff, NaN in every float format) makes a kernel that forgets an output visible.
enum class FreshMemory { as_is, nan_bytes };

// Host memory. A freed block is kept and given to the next request of the same size, because fresh pages from the
// system cost more than most kernels that fill them.
class HostAllocator final : public Allocator {
 public:
  explicit HostAllocator(FreshMemory fresh) : fresh_(fresh) {}
  ~HostAllocator() override;

  void* allocate(std::int64_t bytes) override;
  void deallocate(void* block, std::int64_t bytes) noexcept override;
  void trim() override;

 private:
  FreshMemory fresh_;
  std::mutex mutex_;
  std::unordered_map<std::int64_t, std::vector<void*>> kept_;  // by size in bytes
};

}  // namespace cbq
