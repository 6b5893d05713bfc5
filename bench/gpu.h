// The GPU that benchmarks run on.
#pragma once

#include <memory>

#include "core/context.h"
#include "core/view.h"

namespace cbq::bench {

// Null after one line on stderr that says why there is none. The GPU's name and its driver's version become part of the
// context that benchmarks report; the version is "unknown" where the driver's management library is not installed.
std::unique_ptr<Context> open_gpu();

// y = x by the driver's own copy, of contiguous views of equal size.
void device_copy(Context& ctx, View y, View x);

}  // namespace cbq::bench
