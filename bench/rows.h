// Rows of a benchmark table about one GPU: a kernel's time beside the limits of the device that runs it.
#pragma once

#include <optional>
#include <string>

#include "bench/operands.h"
#include "bench/timing.h"

namespace cbq::bench {

// The makers of one row's operands and call. They are called several times, until the operands of all calls are ten
// times larger than the L2 cache of an H200.
using MakeCall = std::function<Call(Operands&)>;

// The rates that shares refer to, measured in the same run when first asked for.
class Limits {
 public:
  Limits(Context& ctx, Normal& normal) : ctx_(ctx), normal_(normal) {}
  // Bytes read and written a second by the driver's copy of 512 MiB.
  double copy_rate();
  // FLOP/s of `matmul` at 8192 x 8192 x 8192 in bf16.
  double product_rate();

 private:
  Context& ctx_;
  Normal& normal_;
  std::optional<double> copy_rate_, product_rate_;
};

// Registers rows with Google Benchmark; must outlive their run. Counters of a row: bytes, GB/s and of_copy, the share
// of the copy rate; with FLOPs TFLOP/s and of_gemm, the share of the product rate.
class GpuRows {
 public:
  explicit GpuRows(Context& ctx_) : ctx(ctx_), normal_(ctx_), limits_(ctx_, normal_) {}
  // The two limits themselves.
  void add_limits();
  // flops: of one call; 0 where memory is all that counts.
  void add(const std::string& name, double flops, const MakeCall& make);

  Context& ctx;

 private:
  Normal normal_;
  Limits limits_;
};

}  // namespace cbq::bench
