// Element types of a tensor and the floating-point formats of 16 and 8 bits.
#pragma once

#include <bit>
#include <cstdint>
#include <ostream>

#include "core/error.h"

namespace cbq {

// f64 exists on the CPU only, for gradient checks. f8 is E4M3 (Micikevicius et al. 2022, 2209.05433): integers up to 16
// in magnitude are exact. Token ids are i32; packed integers are i32, i8 or u8.
enum class DType : std::uint8_t { f64, f32, f16, bf16, f8, i64, i32, i8, u8 };

inline const char* name(DType t) {
  switch (t) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::f16: return "f16";
    case DType::bf16: return "bf16";
    case DType::f8: return "f8";
    case DType::i64: return "i64";
    case DType::i32: return "i32";
    case DType::i8: return "i8";
    case DType::u8: return "u8";
  }
  return "?";
}

inline std::ostream& operator<<(std::ostream& out, DType t) {
  return out << name(t);
}

// Bytes of one element.
inline std::int64_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::f16:
    case DType::bf16: return 2;
    case DType::f8:
    case DType::i8:
    case DType::u8: return 1;
  }
  return 0;
}

inline bool is_float(DType t) {
  return t == DType::f64 || t == DType::f32 || t == DType::f16 || t == DType::bf16 || t == DType::f8;
}

// IEEE 754 binary16 <-> binary32. Rounding is to nearest, ties to even; overflow gives infinity; NaN stays NaN.
inline float f16_to_f32(std::uint16_t h) {
  const std::uint32_t sign = std::uint32_t(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = float(mantissa) * 0x1p-24f;  // subnormal: mantissa * 2^-24, exact in f32
  return sign ? -magnitude : magnitude;
}

inline std::uint16_t f32_to_f16(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f), sign = (bits >> 16) & 0x8000u,
                      magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return std::uint16_t(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return std::uint16_t(sign | 0x7c00u);  // rounds to 2^16 or more
  if (magnitude <
      0x38800000u) {  // below 2^-14, a subnormal: adding 0.5 leaves mantissa / 2^24 in the low bits, rounded
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return std::uint16_t(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t odd = (magnitude >> 13) & 1u;
  return std::uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

// bfloat16 <-> binary32: the upper half of the f32. Same rounding rules.
inline float bf16_to_f32(std::uint16_t b) {
  return std::bit_cast<float>(std::uint32_t(b) << 16);
}

inline std::uint16_t f32_to_bf16(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return std::uint16_t((bits >> 16) | 0x40u);
  return std::uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// E4M3 <-> binary32. Rounding as above, but beyond 448, the largest number, the result stays there: the format has no
// infinity.
inline float f8_to_f32(std::uint8_t h) {
  const std::uint32_t sign = std::uint32_t(h & 0x80u) << 24, exponent = (h >> 3) & 15u, mantissa = h & 7u;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
  const float magnitude = float(mantissa) * 0x1p-9f;
  return sign ? -magnitude : magnitude;
}

inline std::uint8_t f32_to_f8(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f), sign = (bits >> 24) & 0x80u,
                      magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return std::uint8_t(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return std::uint8_t(sign | 0x7eu);
  if (magnitude < 0x3c800000u) {  // below 2^-6: adding 2^14 leaves mantissa / 2^9 in the low bits, rounded
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return std::uint8_t(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x46800000u));
  }
  const std::uint32_t odd = (magnitude >> 20) & 1u;
  return std::uint8_t(sign | ((magnitude - 0x3c000000u + 0x7ffffu + odd) >> 20));
}

// Of row statistics, losses and learned quantiser parameters beside values of type x: f32 when x is narrower.
constexpr DType statistics_dtype(DType x) {
  return x == DType::f64 ? DType::f64 : DType::f32;
}

}  // namespace cbq
