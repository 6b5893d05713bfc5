// A device opened for work: its kernels, its memory, its queue. The first argument of everything that computes.
#pragma once

#include <memory>
#include <string>

#include "core/allocator.h"

namespace cbq {

struct Kernels;

enum class Device { cpu, cuda };

// Opened by cpu::open() or cuda::open(); a backend derives from it to keep its handles and streams.
class Context {
 public:
  Context(Device device_, std::string name_, const Kernels& kernels_, std::shared_ptr<Allocator> allocator_)
      : device(device_), name(std::move(name_)), kernels(&kernels_), allocator(std::move(allocator_)) {}
  virtual ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Waits until all queued work is done; an asynchronous fault surfaces here as Error{failure}.
  virtual void synchronize() = 0;

  const Device device;
  const std::string name;  // such as "CPU, 2 threads" or "NVIDIA H200"
  const Kernels* const kernels;
  const std::shared_ptr<Allocator> allocator;
};

}  // namespace cbq
