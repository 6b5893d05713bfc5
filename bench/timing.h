// Time of queued kernels without the host's share.
#pragma once

#include <functional>
#include <vector>

#include "core/context.h"

namespace cbq::bench {

using Call = std::function<void()>;

// Seconds that one call takes on the device: the median of several batches. A batch queues the calls in turn until they
// fill 10 ms or more and waits once, so that launches, 3 us each, run ahead of kernels that take longer. The first
// batch warms up and is not counted. Calls on different operands keep one call's data out of the cache of the next.
double seconds_per_call(Context& ctx, const std::vector<Call>& calls);

}  // namespace cbq::bench
