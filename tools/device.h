// The one place that chooses between the backends.
#pragma once

#include <memory>

#include "tools/commands.h"

namespace cbq {

// Error{bad_input} when the device cannot be used: no GPU, or a program built without CUDA.
std::unique_ptr<Context> open_device(const DeviceOptions& options);

}  // namespace cbq
