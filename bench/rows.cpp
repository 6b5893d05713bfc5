#include "bench/rows.h"

#include <benchmark/benchmark.h>

#include "bench/gpu.h"
#include "core/kernels.h"

namespace cbq::bench {
namespace {

constexpr double kRotatedBytes = 512e6;

struct Measured {
  double seconds, bytes;
};

Measured measure(Context& ctx, Normal& normal, const MakeCall& make) {
  std::vector<Call> calls;
  double bytes = 0, rotated = 0;
  while (rotated < kRotatedBytes) {
    Operands operands(ctx, normal);
    calls.push_back(make(operands));
    bytes = operands.bytes(), rotated += bytes;
    require(bytes > 0, "bench: a row has no operands");
  }
  return {seconds_per_call(ctx, calls), bytes};
}

Call copy_call(Operands& o) {
  constexpr std::int64_t kCount = 1 << 28;
  const Tensor x = o.input({kCount}), y = o.output({kCount});
  return [=, &ctx = o.ctx] { device_copy(ctx, y, x); };
}

constexpr std::int64_t kSide = 8192;
constexpr double kProductFlops = 2.0 * kSide * kSide * kSide;

Call product_call(Operands& o) {
  const Tensor a = o.input({kSide, kSide}), b = o.input({kSide, kSide}), y = o.output({kSide, kSide});
  return [=, &ctx = o.ctx] { ctx.kernels->matmul(ctx, y, a, Trans::no, b, Trans::yes, {}, {}); };
}

void report(benchmark::State& state, const Measured& row, double flops, Limits& limits) {
  for (auto _ : state) state.SetIterationTime(row.seconds);
  state.counters["bytes"] = row.bytes;
  state.counters["GB/s"] = 1e-9 * row.bytes / row.seconds;
  state.counters["of_copy"] = row.bytes / row.seconds / limits.copy_rate();
  if (flops == 0) return;
  state.counters["TFLOP/s"] = 1e-12 * flops / row.seconds;
  state.counters["of_gemm"] = flops / row.seconds / limits.product_rate();
}

}  // namespace

double Limits::copy_rate() {
  if (!copy_rate_) {
    const Measured copy = measure(ctx_, normal_, copy_call);
    copy_rate_ = copy.bytes / copy.seconds;
  }
  return *copy_rate_;
}

double Limits::product_rate() {
  if (!product_rate_) product_rate_ = kProductFlops / measure(ctx_, normal_, product_call).seconds;
  return *product_rate_;
}

void GpuRows::add_limits() {
  add("gpu/limits/copy", 0, copy_call);
  add("gpu/limits/product", kProductFlops, product_call);
}

void GpuRows::add(const std::string& name, double flops, const MakeCall& make) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [this, flops, make](benchmark::State& state) {
                                 try {
                                   report(state, measure(ctx, normal_, make), flops, limits_);
                                 } catch (const Error& error) {
                                   state.SkipWithError(error.what());
                                 }
                                 ctx.allocator->trim();
                               })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace cbq::bench
