// The GPU that the tests of the CUDA backend share. tests/gpu_main.cpp skips all of them where there is none.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/kernels.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "cpu/open.h"
#include "cuda/open.h"

namespace cbq::test {

inline Context& gpu() {
  static const std::unique_ptr<Context> context = cuda::open(0, FreshMemory::nan_bytes);
  return *context;
}
inline Context& host() {
  static const std::unique_ptr<Context> context = cpu::open(0, FreshMemory::nan_bytes);
  return *context;
}

inline std::vector<float> randn(std::int64_t count, std::uint64_t seed, double deviation = 1) {
  Rng rng(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = float(deviation * rng.normal());
  return values;
}

// The values of `from` on another device or in another type; f64 and bf16 live on the CPU and the GPU alone.
inline Tensor on(Context& ctx, const Tensor& from, Context& of, DType dtype) {
  return from_host<float>(ctx, from.shape(), dtype, to_host<float>(of, from));
}

}  // namespace cbq::test
