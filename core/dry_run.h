// A device that computes nothing and counts memory: the same program on it tells what a run will take.
#pragma once

#include <memory>

#include "core/context.h"

namespace cbq {

// Every kernel returns at once, tensors have sizes and no bytes, copies to the host give zeros. What kernels allocate
// for themselves is not counted.
std::unique_ptr<Context> open_dry_run(Device device);

}  // namespace cbq
