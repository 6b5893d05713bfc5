#include "core/dry_run.h"

#include <cstring>
#include <limits>
#include <utility>

#include "core/kernels.h"

namespace cbq {
namespace {

// Addresses that nobody follows: they only tell wanted tensors from those left out.
class CountingAllocator final : public Allocator {
 public:
  void* allocate(std::int64_t bytes) override {
    if (bytes == 0) return nullptr;
    count_allocation(bytes);
    return this;
  }
  void deallocate(void*, std::int64_t bytes) noexcept override { count_release(bytes); }
  void trim() override {}
};

template <class... Arguments>
using Kernel = void (*)(Context&, Arguments...);

// Any kernel, that does nothing.
struct Nothing {
  template <class... Arguments>
  operator Kernel<Arguments...>() const {
    return [](Context&, Arguments...) {};
  }
};

void zeros(Context&, void* host, const void*, std::int64_t bytes) {
  if (bytes > 0) std::memset(host, 0, std::size_t(bytes));
}

template <std::size_t... kEntry>
Kernels do_nothing(std::index_sequence<kEntry...>) {
  return {(void(kEntry), Nothing())...};
}

Kernels dry_kernels() {
  Kernels kernels = do_nothing(std::make_index_sequence<sizeof(Kernels) / sizeof(Kernel<>)>());
  kernels.copy_to_host = zeros;
  return kernels;
}

const Kernels kKernels = dry_kernels();

class DryRun final : public Context {
 public:
  explicit DryRun(Device device_)
      : Context(device_, "dry run", kKernels, std::make_shared<CountingAllocator>(),
                std::make_shared<CountingAllocator>()) {}
  void synchronize() override {}
  std::int64_t bytes_available() const override { return std::numeric_limits<std::int64_t>::max(); }
  // A GPU that does takes more memory than one that does not.
  bool prefers_integers(DType dtype, const Shape&, const Shape&) const override {
    return device == Device::cuda && dtype == DType::bf16;
  }
};

}  // namespace

std::unique_ptr<Context> open_dry_run(Device device) {
  require(missing_kernels(kKernels) == 0, "dry run: kernels are missing in its table");
  return std::make_unique<DryRun>(device);
}

}  // namespace cbq
