// Starts a kernel on the compute stream and checks the launch, in every build.
#pragma once

#include <cstdlib>

#include "cuda/backend.h"

namespace cbq::cuda {

// With CBQ_SYNC=1 each launch is waited for, so that an asynchronous fault is reported with the kernel's name.
template <class... Params, class... Args>
void launch(const char* kernel_name, Context& ctx, dim3 blocks, dim3 threads, void (*kernel)(Params...),
            Args&&... args) {
  static const bool wait = [] {
    const char* value = std::getenv("CBQ_SYNC");
    return value && value[0] == '1';
  }();
  kernel<<<blocks, threads, 0, cuda_context(ctx).stream.get()>>>(std::forward<Args>(args)...);
  check(cudaGetLastError(), kernel_name);
  if (wait) check(cudaStreamSynchronize(cuda_context(ctx).stream.get()), kernel_name);
}

}  // namespace cbq::cuda
