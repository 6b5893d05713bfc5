// A device opened for work: its kernels, its memory, its queue. The first argument of everything that computes.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/shape.h"

namespace cbq {

struct Kernels;

enum class Device { cpu, cuda };

// Type of weights and activations in models. automatic: f32 on the CPU, bf16 on a GPU.
enum class Precision { automatic, f32, bf16 };

// Error{bad_input} for bf16 on the CPU, whose kernels have none.
inline DType compute_dtype(Precision precision, Device device) {
  require_input(precision != Precision::bf16 || device == Device::cuda,
                "precision: bfloat16 needs a GPU; use float32, or \"device\": \"cuda\"");
  if (precision == Precision::automatic) return device == Device::cuda ? DType::bf16 : DType::f32;
  return precision == Precision::bf16 ? DType::bf16 : DType::f32;
}

// Work recorded once that runs again as a whole.
class Replay {
 public:
  virtual ~Replay() = default;
  // Queues the work: the same kernels on the same addresses.
  virtual void run() = 0;
};

// Opened by cpu::open() or cuda::open(); a backend derives from it to keep its handles and streams.
class Context {
 public:
  Context(Device device_, std::string name_, const Kernels& kernels_, std::shared_ptr<Allocator> allocator_,
          std::shared_ptr<Allocator> host_allocator_)
      : device(device_),
        name(std::move(name_)),
        kernels(&kernels_),
        allocator(std::move(allocator_)),
        host_allocator(std::move(host_allocator_)) {}
  virtual ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  // Waits until all queued work is done; an asynchronous fault surfaces here as Error{failure}.
  virtual void synchronize() = 0;
  // Device memory that allocator can still hand out.
  virtual std::int64_t bytes_available() const = 0;
  // Copies `bytes` from the device in the queue's order and does not wait, unless the device computes on the host. The
  // function that comes back waits for this copy, not for what was queued after it, and gives the bytes.
  virtual std::function<std::vector<std::byte>()> read_later(const void* device_bytes, std::int64_t bytes);
  // Calls `work` and records what it queues instead of doing it. `work` must have run just before, must not wait for
  // the device, and reads and leaves tensors that outlive the Replay; what it frees itself belongs to the Replay. Null
  // where the device cannot: then `work` was not called, or has to be done again and what it left holds nothing.
  virtual std::unique_ptr<Replay> record(const std::function<void()>& work);

  // Whether matmul_integers is faster than matmul for a (M,K) and b (N,K) with values of `dtype`.
  virtual bool prefers_integers(DType dtype, const Shape& a, const Shape& b) const;

  const Device device;
  const std::string name;  // such as "CPU, 2 threads" or "NVIDIA H200"
  const Kernels* const kernels;
  const std::shared_ptr<Allocator> allocator;
  const std::shared_ptr<Allocator> host_allocator;  // host memory that the device copies from at full speed
};

}  // namespace cbq
