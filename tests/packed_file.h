// Tensors of a packed file as host numbers, for tests that unpack them by the formulas of the format.
#pragma once

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/safetensors.h"

namespace cbq {

template <class T>
std::vector<T> read(const SafetensorsFile& file, const std::string& name) {
  std::vector<T> values(std::size_t(file.info(name).bytes) / sizeof(T));
  std::memcpy(values.data(), file.bytes(name).data(), values.size() * sizeof(T));
  return values;
}

inline float as_float(std::uint32_t bits, DType dtype) {
  return dtype == DType::f32   ? std::bit_cast<float>(bits)
         : dtype == DType::f16 ? f16_to_f32(std::uint16_t(bits))
                               : bf16_to_f32(std::uint16_t(bits));
}

inline float rounded(float x, DType dtype) {
  return dtype == DType::f32 ? x : dtype == DType::f16 ? f16_to_f32(f32_to_f16(x)) : bf16_to_f32(f32_to_bf16(x));
}

}  // namespace cbq
