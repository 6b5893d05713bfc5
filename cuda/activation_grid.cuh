// One row of activations and the integer grid of its range, on the device: what fake_quant and the ops fused with it
// share. Formulas: cuda/fake_quant.cu.
#pragma once

#include <cfloat>

#include "cuda/rounding_weight.cuh"
#include "cuda/row.cuh"

namespace cbq::cuda {

struct DeviceQuantiser {
  const float* factor;  // (1)
  int bits;
  Symmetry symmetry;
};

inline DeviceQuantiser on_device(const ActivationQuantiser& quantiser) {
  return {elements<const float>(quantiser.factor), quantiser.bits, quantiser.symmetry};
}

// (least, largest) of a pack and of what is there already; NaN stays. Pairs of bf16 take one instruction each.
template <class T, int N>
__device__ void widen(float2& range, const Pack<T, N>& x) {
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
    unsigned words[N / 2];
    memcpy(words, &x, sizeof(x));
    unsigned low = words[0], high = words[0];
#pragma unroll
    for (int i = 1; i < N / 2; ++i) {
      asm("min.NaN.bf16x2 %0, %0, %1;" : "+r"(low) : "r"(words[i]));
      asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(high) : "r"(words[i]));
    }
    range.x = min_nan(range.x, min_nan(__uint_as_float(low << 16), __uint_as_float(low & 0xffff0000u)));
    range.y = max_nan(range.y, max_nan(__uint_as_float(high << 16), __uint_as_float(high & 0xffff0000u)));
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k)
      range.x = min_nan(range.x, to_float(x.v[k])), range.y = max_nan(range.y, to_float(x.v[k]));
  }
}

// Least and largest of a row and 0, the same in all its threads; both NaN where the row holds a NaN or an infinity.
// `row` gives packs by raw(i, c) (cuda/row.cuh).
template <class S, class Row>
__device__ float2 range_of_row(const Row& row, std::int64_t cols) {
  float2 range = {};
  walk<S>(cols, [&](int i, auto c) { widen(range, row.raw(i, c)); });
  float extremes[2] = {-range.x, range.y};
  row_reduce<S>(extremes, [](float a, float b) { return max_nan(a, b); });
  const float low = -extremes[0], high = extremes[1];
  const float poison = (low - low) + (high - high);  // 0, or NaN where not finite
  return {low + poison, high + poison};
}

__device__ inline Step grid_of_range(float2 row, const DeviceQuantiser& quantiser) {
  const float low = row.x, high = row.y, factor = *quantiser.factor, last = float((1 << quantiser.bits) - 1);
  const bool symmetric = quantiser.symmetry == Symmetry::symmetric;
  const float range = symmetric ? 2 * max_nan(-low, high) : high - low, s = factor * range / last;
  const float z = symmetric ? float(1 << (quantiser.bits - 1)) : range > 0 ? rintf(-low * last / range) : 0.0f;
  // The floor makes an all-zero row 0 / s = 0 instead of 0 / 0; NaN stays. A multiple of s up to N / factor must not
  // overflow.
  const float normal = s < FLT_MIN ? FLT_MIN : s;
  return make_step(normal, normal, z, factor >= 0x1p-40f ? kLargestFastStep<Rounder::straight_through> : 0).with(last);
}

// x / s over the whole range of floats, wrong by at most 2 ulp: an exact division is a call, which costs registers.
__device__ inline float any_quotient(float x, float s) {
  float y;
  asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(s));
  return y;
}

// x / s of a pack, correctly rounded for steps from 2^-60 to 2^60.
template <int N>
__device__ void ratios(float (&ratio)[N], const Pack<float, N>& x, const Step& step) {
  if (step.inverse != 0) {
#pragma unroll
    for (int k = 0; k < N; ++k) ratio[k] = fast_quotient(x.v[k], step);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) ratio[k] = any_quotient(x.v[k], step.s);
  }
}

// Where quantised rows go: values, and where wanted their integers and steps.
template <class T>
struct QuantisedRows {
  Rows<T> values;
  Rows<f8> integers;  // without data where not wanted
  float* step;

  QuantisedRows(const View& y, const IntegerRows& to)
      : values(rows<T>(y)), integers(rows<f8>(to.integers)), step(elements<float>(to.step)) {}
};

// y = s (q - z) of row r, and its integers.
template <class S, class T, class Row>
__device__ void quantise_row(const QuantisedRows<T>& to, std::int64_t r, const Row& row, const Step& step) {
  constexpr int N = S::kPack;
  walk<S>(to.values.cols, [&](int i, auto c) {
    float integer[N];
    ratios(integer, row.at(i, c), step);
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      integer[k] = nearest_on_grid(integer[k], step);
      out.v[k] = from_float<T>(step.s * integer[k]);
    }
    store_pack(row_of(to.values, r) + c, out);
    if (to.integers.data) store_f8(row_of(to.integers, r) + c, integer);
  });
  if (to.integers.data && threadIdx.x == 0) to.step[r] = step.s;
}

// dx = m dy of a pack; adds dy (q - z - m x/s) to `sum`.
template <int N>
__device__ Pack<float, N> straight_through(float& sum, const Pack<float, N>& dy, const float (&ratio)[N],
                                           const Step& step) {
  Pack<float, N> dx;
#pragma unroll
  for (int k = 0; k < N; ++k) {
    const float u = round_to_even(ratio[k]), clipped = clip_nan(u, step.low, step.high);
    const bool inside = clipped == u;
    sum = fmaf(dy.v[k], inside ? clipped - ratio[k] : clipped, sum);
    dx.v[k] = inside ? dy.v[k] : 0.0f;
  }
  return dx;
}

// The parts of `rows` rows, each of factor dfactor, in the order of the rows.
struct WriteFactor {
  float* y;
  const float* factor;
  __device__ void operator()(double sum) const { *y = float(sum / double(*factor)); }
};
inline void sum_factor(const char* name, Context& ctx, View dfactor, const double* of_row, std::int64_t row_count,
                       const DeviceQuantiser& quantiser) {
  if (dfactor)
    launch_dependent(name, ctx, {1, kSumThreads}, finish_sum_kernel<WriteFactor>, of_row, row_count,
                     WriteFactor{elements<float>(dfactor), quantiser.factor});
}

}  // namespace cbq::cuda
