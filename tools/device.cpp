#include "tools/device.h"

#include "cpu/open.h"
#include "cuda/open.h"

namespace cbq {

std::unique_ptr<Context> open_device(const DeviceOptions& options) {
  if (options.device == Device::cpu) return cpu::open(options.threads);
  return cuda::open();
}

}  // namespace cbq
