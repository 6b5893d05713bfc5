// A weight on its integer grid, its rounding learned: the device functions that forward, codes and backward share, so
// that they decide alike. Formulas: cpu/rounding.h.
//
//   straight_through: u = round(w/s0 + d), ties to even
//   sigmoid:          u = floor(w/s0) + h;  sigmoid_hard: u = floor(w/s0) + (h >= 0.5)
//   w_hat = s clip(u, -z, 2^bits - 1 - z), which is s (q - z): z is an integer
//
// s0 is s itself, or a start_scale that stays. With f = w/s0 - floor(w/s0), b = 1 - p = (1.1 - f) / 1.2, n = p + b e^-d
// and t = sigmoid(V0 + d) = p / n:
//   h = clip(f + 1.2 p (1/n - 1), 0, 1), exactly f at d = 0 where n is 1;  h' = 1.2 t (1 - t) where the clip is idle
#pragma once

#include <algorithm>

#include "cuda/value.cuh"

namespace cbq::cuda {

// min and max that keep NaN.
__device__ inline float min_nan(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ inline float max_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ inline float clip_nan(float x, float low, float high) {
  return min_nan(max_nan(x, low), high);
}

// Adding it leaves an integer in [2^23, 2^24): one addition rounds |x| < 2^22 to nearest even or down. Numbers beyond
// stay beyond every grid, infinite or NaN.
constexpr float kShifter = 0x1.8p23f;
__device__ inline float round_to_even(float x) {
  return (x + kShifter) - kShifter;
}
__device__ inline float round_down(float x) {
  return __fadd_rd(x, kShifter) - kShifter;
}

// 2 ulp, and 1 at 0; below 2^-126 it is 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 2^-22 absolute between 1/2 and 2, relative elsewhere; below 2^-126 it is -infinity.
__device__ inline float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 1 ulp, and 1 at 1.
__device__ inline float reciprocal_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Step sizes and zero point as the weights of a group need them.
struct Step {
  float s0, inverse;  // that quotients are of; 1/s0, or 0 where quotients() must divide
  float low, high;    // the ends of the grid, -z and 2^bits - 1 - z
  float s;            // of values
};
// The same in tables: `last`, the largest code, is the launch's.
struct alignas(16) StoredStep {
  float s0, inverse, low, s;
  __device__ Step with(float last) const { return {s0, inverse, low, low + last, s}; }
};

// Steps for which quotients() multiplies by 1/s instead of dividing: from 2^-60, up to 1 for decisions on the floor of
// a quotient and up to 2^60 for those on its nearest integer.
constexpr float kSmallestFastStep = 0x1p-60f;
template <Rounder kRounder>
constexpr float kLargestFastStep = kRounder == Rounder::straight_through ? 0x1p60f : 1;

__device__ inline StoredStep make_step(float s0, float s, float z, float largest_fast) {
  return {s0, s0 >= kSmallestFastStep && s0 <= largest_fast ? __frcp_rn(s0) : 0.0f, 0 - z, s};
}

// w / s, correctly rounded, in three instructions: y = RN(1/s), q0 = RN(w y), r = RN(w - q0 s), q = RN(q0 + r y).
//
// Let 1 <= w, s < 2 (powers of 2 scale out) and s > 1. Then y = 1/s + e with |e| <= 2^-25 - 2^-48/s, because 1/s, a
// quotient of integers, keeps at least 2^-48/s from midpoints. Let w/s = q0 + D; with r exact, as it is for |D| <= 1
// ulp, q0 + r y = w/s + D s e, and q is wrong only if a midpoint of floats lies between the two. w >= s, ulp 2^-23: |D|
// < 1 ulp, so that midpoint is within 2^-47 of w/s and |D| = 0.5 ulp + 2^-47 at most. Then |D s e| is below 2^-47/s,
// the least distance of w/s from a midpoint. w < s, ulp 2^-24: |D| < 1.5 ulp. Near 0.5 ulp the same holds with all
// distances halved. Beyond 1 ulp r may lose its last bit, which moves the sum by 5 2^-49 at most; |D| would be 1.5 ulp
// - 5 2^-49 or more, but it is at most 0.5 ulp + w |e| <= 1.5 ulp - 6 2^-49, since w <= 2 - 2^-22.
//
// Where |w| < 2^-102 r may be subnormal and q wrong by a few ulp. There |w/s| < 2^-42, the sign of q is right, and for
// s <= 1 it is 0 for w = 0 alone: nearest integer and floor are those of w/s. w y must not overflow: |w| < 2 is enough.
__device__ inline float fast_quotient(float w, const Step& step) {
  const float q0 = w * step.inverse;
  return fmaf(fmaf(-q0, step.s0, w), step.inverse, q0);
}

// round(w/s) clipped to the grid, in units of s: a code less z. NaN stays.
__device__ inline float nearest_on_grid(float ratio, const Step& step) {
  return clip_nan(round_to_even(ratio), step.low, step.high);
}

struct Rounded {
  float ratio, u, raw, slope;  // w/s0, u, h before its clip, du/dd
};

// Offsets are handed on in these units: those of the exponent of 2 that a sigmoid rounder needs.
template <Rounder kRounder>
constexpr float kOffsetUnit = kRounder == Rounder::straight_through ? 1.0f : -0x1.715476p+0f;  // -1 / ln 2

// d: the offset times kOffsetUnit.
template <Rounder kRounder>
__device__ Rounded round_weight(float ratio, float d) {
  if constexpr (kRounder == Rounder::straight_through) return {ratio, round_to_even(ratio + d), 0, 1};
  constexpr float kStretch = 1.2f;
  const float whole = round_down(ratio), f = ratio - whole;
  const float b = fmaf(f, -1 / 1.2f, 1.1f / 1.2f), p = 1 - b;
  const float inverse = reciprocal_approx(fmaf(b, exp2_approx(d), p));  // 0 where e^-d overflows: h = f - 1.2 p < 0
  const float raw = fmaf(p, fmaf(kStretch, inverse, -kStretch), f);
  if constexpr (kRounder == Rounder::sigmoid_hard) return {ratio, whole + (raw >= 0.5f ? 1.0f : 0.0f), raw, 0};
  // Saturation turns NaN into 0; the product with 0 keeps it.
  const float t = p * inverse, u = fmaf(inverse, 0, whole) + __saturatef(raw);
  return {ratio, u, raw, raw < 0 || raw > 1 ? 0.0f : kStretch * fmaf(-t, t, t)};
}

// ---- packs of one or eight neighbours, moved by instructions of 16 bytes and kept as the words they came in: a Pack
// of bf16 is taken apart into halves, which costs two more instructions a value.

// Columns a lane: packs of 8, or one where addresses, sizes or groups do not allow them.
constexpr int kPackedColumns = 8;

template <class T, int N>
struct Raw {
  static_assert(N == 1 || N == 8);
  static constexpr int kCount = N;
  static constexpr int kWords = N == 1 ? 1 : N * int(sizeof(T)) / 4;
  unsigned word[kWords];

  // Whether all are below 2 in magnitude: the highest bit of the exponent is clear. NaN is not.
  __device__ bool all_below_2() const {
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < kWords; ++i) bits |= word[i];
    return (bits & (sizeof(T) == 4 ? 0x40000000u : 0x40004000u)) == 0;
  }
  __device__ float operator[](int n) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(word[n]);
    return __uint_as_float(n % 2 == 0 ? word[n / 2] << 16 : word[n / 2] & 0xffff0000u);
  }
};

template <int N, class T>
__device__ Raw<T, N> load_raw(const T* from) {
  Raw<T, N> raw;
  if constexpr (N == 1 && sizeof(T) == 2) {
    raw.word[0] = *reinterpret_cast<const unsigned short*>(from);
  } else if constexpr (N == 1) {
    raw.word[0] = __float_as_uint(*from);
  } else {
#pragma unroll
    for (int i = 0; i < Raw<T, N>::kWords; i += 4) {
      const uint4 four = reinterpret_cast<const uint4*>(from)[i / 4];
      raw.word[i] = four.x, raw.word[i + 1] = four.y, raw.word[i + 2] = four.z, raw.word[i + 3] = four.w;
    }
  }
  return raw;
}

// w / s0 of a pack; inverse: that of the step, or 0 to divide.
template <class T, int N>
__device__ __forceinline__ void quotients(float (&ratio)[N], const Raw<T, N>& w, const Step& step, float inverse) {
  if (inverse != 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) ratio[n] = fast_quotient(w[n], step);
  } else {
#pragma unroll
    for (int n = 0; n < N; ++n) ratio[n] = w[n] / step.s0;
  }
}

__device__ inline unsigned bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return __bfloat16_as_ushort(pair.x) | unsigned(__bfloat16_as_ushort(pair.y)) << 16;
}

// Rounded to T.
template <class T, int N>
__device__ void store_floats(T* to, const float (&x)[N]) {
  if constexpr (N == 1) {
    *to = from_float<T>(x[0]);
  } else if constexpr (sizeof(T) == 4) {
    __stwb(reinterpret_cast<float4*>(to), make_float4(x[0], x[1], x[2], x[3]));
    __stwb(reinterpret_cast<float4*>(to) + 1, make_float4(x[4], x[5], x[6], x[7]));
  } else {
    __stwb(reinterpret_cast<uint4*>(to),
           make_uint4(bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]), bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7])));
  }
}

// ---- what becomes of a rounded weight

// clip(u, -z, N - z): q - z, or what lies between such integers
__device__ inline float integer_of(const Rounded& x, const Step& step) {
  return clip_nan(x.u, step.low, step.high);
}

// q = clip(u, -z, N - z) + z of a pack; NaN gives 0.
template <int N>
__device__ void store_codes(std::uint8_t* to, const Rounded (&x)[N], const Step& step) {
  unsigned word[(N + 3) / 4] = {};
#pragma unroll
  for (int n = 0; n < N; ++n)
    word[n / 4] |= unsigned(fminf(fmaxf(x[n].u - step.low, 0), step.high - step.low)) << n % 4 * 8;
  if constexpr (N == 1)
    *to = std::uint8_t(word[0]);
  else
    __stwb(reinterpret_cast<uint2*>(to), make_uint2(word[0], word[1]));
}

// ---- on the host

// Groups of `group` columns that `width` neighbours touch, at most, where their first column is a multiple of `width`
// and there are `groups` in all.
inline std::int64_t groups_touched(std::int64_t width, std::int64_t group, std::int64_t groups) {
  const std::int64_t touched = width % group == 0 ? width / group : group % width == 0 ? 1 : (width - 2) / group + 2;
  return std::min(touched, groups);
}

template <class T>
bool packs_or_empty(const View& x) {
  return !x || packs<kPackedColumns>(rows<const T>(x));
}

// Calls fn.template operator()<Rounder>().
template <class Fn>
void dispatch_rounder(Rounder rounder, const Fn& fn) {
  switch (rounder) {
    case Rounder::straight_through: return fn.template operator()<Rounder::straight_through>();
    case Rounder::sigmoid: return fn.template operator()<Rounder::sigmoid>();
    case Rounder::sigmoid_hard: return fn.template operator()<Rounder::sigmoid_hard>();
  }
}

}  // namespace cbq::cuda
