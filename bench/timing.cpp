#include "bench/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace cbq::bench {
namespace {

constexpr double kBatchSeconds = 0.01;
constexpr int kBatches = 9;

double seconds_of_rounds(Context& ctx, const std::vector<Call>& calls, int rounds) {
  ctx.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < rounds; ++i)
    for (const Call& call : calls) call();
  ctx.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double seconds_per_call(Context& ctx, const std::vector<Call>& calls) {
  require(!calls.empty(), "timing: there is nothing to time");
  seconds_of_rounds(ctx, calls, 1);  // loads kernels and asks cuBLASLt for algorithms
  const double once = seconds_of_rounds(ctx, calls, 1);
  const int rounds = int(std::clamp(std::ceil(kBatchSeconds / once), 1.0, 1000.0));
  seconds_of_rounds(ctx, calls, rounds);  // brings the clocks up
  std::vector<double> seconds;
  for (int i = 0; i < kBatches; ++i)
    seconds.push_back(seconds_of_rounds(ctx, calls, rounds) / (rounds * double(calls.size())));
  std::nth_element(seconds.begin(), seconds.begin() + kBatches / 2, seconds.end());
  return seconds[kBatches / 2];
}

}  // namespace cbq::bench
