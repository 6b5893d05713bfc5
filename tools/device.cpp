#include "tools/device.h"

#include "cpu/open.h"
#include "cuda/open.h"

namespace cbq {

std::unique_ptr<Context> open_device(const DeviceOptions& options) {
  return options.device == Device::cuda ? cuda::open() : cpu::open(options.threads);
}

}  // namespace cbq
