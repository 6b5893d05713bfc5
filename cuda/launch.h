// Starts a kernel on the compute stream and checks the launch, in every build.
#pragma once

#include <cstdlib>

#include "cuda/backend.h"

namespace cbq::cuda {

struct LaunchShape {
  dim3 blocks, threads;
  std::size_t shared_bytes = 0;  // dynamic; above 48 KiB the kernel's attribute must have been raised
};

// With CBQ_SYNC=1 each launch is waited for, so that an asynchronous fault is reported with the kernel's name.
inline void launched(const char* kernel_name, Context& ctx) {
  static const bool wait = [] {
    const char* value = std::getenv("CBQ_SYNC");
    return value && value[0] == '1';
  }();
  check(cudaGetLastError(), kernel_name);
  if (wait) check_finished(cudaStreamSynchronize(cuda_context(ctx).stream.get()), kernel_name);
}

template <class... Params, class... Args>
void launch(const char* kernel_name, Context& ctx, const LaunchShape& shape, void (*kernel)(Params...),
            Args&&... args) {
  kernel<<<shape.blocks, shape.threads, shape.shared_bytes, cuda_context(ctx).stream.get()>>>(
      std::forward<Args>(args)...);
  launched(kernel_name, ctx);
}

// Blocks of `threads` that give each of `count` elements a thread, at most 65536: kernels walk on from there.
inline LaunchShape shape_for(std::int64_t count, unsigned threads = 256) {
  const std::int64_t blocks = (count + threads - 1) / threads;
  return {unsigned(blocks < 65536 ? blocks : 65536), threads};
}

}  // namespace cbq::cuda
