// Numbers of tensors on either device, and how the tests of CUDA kernels compare them.
#pragma once

#include <cmath>
#include <limits>

#include "tests/check.h"
#include "tests/gpu.h"

namespace cbq::test {

inline const float kNan = std::nanf(""), kInf = std::numeric_limits<float>::infinity();

// The numbers that `dtype` holds in place of these.
inline std::vector<float> rounded_to(DType dtype, const std::vector<float>& values) {
  return to_host<float>(host(), from_host<float>(host(), {std::int64_t(values.size())}, dtype, values));
}

// Equal numbers, NaN equal to NaN.
inline void expect_same(const std::vector<float>& actual, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_TRUE(actual[i] == expected[i] || (std::isnan(actual[i]) && std::isnan(expected[i])))
        << what << ": " << actual[i] << " at " << i << ", expected " << expected[i];
}

// In double, by way of f32 on the GPU.
inline Values numbers(Context& ctx, const Tensor& x) {
  if (x.dtype() == DType::f64) return to_host<double>(ctx, x);
  const std::vector<float> values = to_host<float>(ctx, x);
  return {values.begin(), values.end()};
}

inline std::vector<std::byte> bytes_of(Context& ctx, const Tensor& x) {
  std::vector<std::byte> bytes(std::size_t(x.bytes()));
  to_host_bytes(ctx, bytes, x);
  return bytes;
}

}  // namespace cbq::test
