#include "tools/device.h"

#include "core/kernels.h"
#include "cpu/open.h"
#include "cuda/open.h"

namespace cbq {

std::unique_ptr<Context> open_device(const DeviceOptions& options) {
  if (options.device == Device::cpu) return cpu::open(options.threads);
  auto gpu = cuda::open();
  const std::int64_t missing = missing_kernels(*gpu->kernels);
  require_input(missing == 0, "cuda: ", gpu->name, " was found, but this version has no CUDA code for ", missing,
                " of the kernels a model needs; use \"device\": \"cpu\"");
  return gpu;
}

}  // namespace cbq
