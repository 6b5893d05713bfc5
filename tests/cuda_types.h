// The float types of the CUDA backend.
#pragma once

#include "tests/gpu.h"

namespace cbq::test {

inline const DType kTypes[] = {DType::f32, DType::bf16};

// x as a value of the type.
inline double in_type(DType dtype, double x) {
  return dtype == DType::bf16 ? double(bf16_to_f32(f32_to_bf16(float(x)))) : double(float(x));
}

}  // namespace cbq::test
