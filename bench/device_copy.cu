#include "bench/gpu.h"
#include "cuda/backend.h"

namespace cbq::bench {

void device_copy(Context& ctx, View y, View x) {
  const std::size_t bytes = std::size_t(x.count() * size_of(x.dtype));
  CUDA_CHECK(cudaMemcpyAsync(y.data, x.data, bytes, cudaMemcpyDeviceToDevice, cuda::cuda_context(ctx).stream.get()));
}

}  // namespace cbq::bench
