// What lets the compiler turn a loop into vector instructions: sums in a fixed number of lanes, and elementary
// functions of float without a branch, a table or a library call. For double these are the standard library's.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace cbq::cpu {

// e^x, wrong by at most 1.02 ulp (1.01 measured on every fifth float; tests/cpu_kernels.cpp walks over every 97th).
// +-infinity, NaN, overflow to infinity and subnormal results are as std::exp gives them.
// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2)/2 (Cody & Waite 1980, chapter 6).
inline float exp(float x) {
  constexpr float kLow = -105, kHigh = 89;  // beyond them e^x is 0 or infinity in float
  constexpr float kShifter = 0x1.8p23f;     // adding it leaves round(t) in the low bits of the sum
  constexpr float kLn2High = 0x1.62ep-1f, kLn2Low = 0x1.0bfbe8p-15f;  // n * kLn2High is exact
  x = x < kLow ? kLow : x > kHigh ? kHigh : x;                        // NaN stays
  const float shifted = x * 0x1.715476p+0f + kShifter;
  const float n = shifted - kShifter;
  const float r = x - n * kLn2High - n * kLn2Low;

  // (e^r - 1 - r) / r^2 for |r| <= ln(2)/2, minimax in e^r: 3e-9 relative, 0.05 of half an ulp
  float tail = 0x1.6a23cep-10f;
  tail = tail * r + 0x1.123a2p-7f;
  tail = tail * r + 0x1.5558f2p-5f;
  tail = tail * r + 0x1.555492p-3f;
  tail = tail * r + 0x1.fffffcp-2f;
  const float e_r = tail * (r * r) + r + 1;

  // 2^n in two factors, because n reaches -151 and 128 while a float's exponent ends at -126 and 127.
  const std::int32_t exponent =
      std::int32_t(std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kShifter));
  const std::int32_t half = exponent >> 1;
  const auto power_of_2 = [](std::int32_t e) { return std::bit_cast<float>(std::uint32_t(e + 127) << 23); };
  return e_r * power_of_2(half) * power_of_2(exponent - half);
}

inline double exp(double x) {
  return std::exp(x);
}

// sum of term(i) for i in [0, n), in double: kLanes sums side by side, added in halves. The order is that of the code,
// so that it is the same on every machine.
template <class Term>
double sum_over(std::int64_t n, const Term& term) {
  constexpr int kLanes = 16;
  double lane[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += term(i + l);
  for (int l = 0; i + l < n; ++l) lane[l] += term(i + l);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

// Largest of x[0 .. n-1]; NaN is passed over, and no number at all gives -infinity.
template <class T>
T max_over(std::int64_t n, const T* x) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (std::int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

// 1 / (1 + e^-x)
template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + cpu::exp(-x));
}

}  // namespace cbq::cpu
