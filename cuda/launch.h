// Starts a kernel on the compute stream and checks the launch, in every build.
#pragma once

#include "cuda/backend.h"

namespace cbq::cuda {

struct LaunchShape {
  dim3 blocks, threads;
  std::size_t shared_bytes = 0;  // dynamic
};

// With CBQ_SYNC=1 each launch is waited for, so that an asynchronous fault is reported with the kernel's name.
inline void launched(const char* kernel_name, Context& ctx) {
  check(cudaGetLastError(), kernel_name);
  if (cuda_context(ctx).waits) check_finished(cudaStreamSynchronize(cuda_context(ctx).stream.get()), kernel_name);
}

template <class... Params, class... Args>
void launch(const char* kernel_name, Context& ctx, const LaunchShape& shape, void (*kernel)(Params...),
            Args&&... args) {
  constexpr std::size_t kAllowedUnasked = 48 << 10;
  if (shape.shared_bytes > kAllowedUnasked)
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes)));
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
