#include "cpu/rounding.h"

#include <cmath>

#include "cpu/backend.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

// h stretches the sigmoid to (-0.1, 1.1), so that 0 and 1 are reached at finite arguments.
constexpr double kStretch = 1.2, kShift = -0.1;
// |d| beyond which h is 0 or 1 for every fraction (5 would do); keeps e^-d finite.
constexpr int kLargestOffset = 30;

template <class T>
void find_offset(Piece<T>& piece, const Quantiser<T>& q) {
  if (q.dense.data) {
    std::copy_n(q.dense.row(piece.r) + piece.begin, piece.count, piece.offset.data());
    return;
  }
  std::fill_n(piece.offset.data(), piece.count, T(0));
  if (!q.a1.data) return;
  for (std::int64_t k = 0; k < q.a1.cols; ++k) {
    const T left = q.a1(piece.r, k);
    const T* right = q.a2.row(k) + piece.begin;
#pragma omp simd
    for (std::int64_t c = 0; c < piece.count; ++c) piece.offset[std::size_t(c)] += left * right[c];
  }
}

// u (here still floor(w/s0)), h and its slope from ratio and offset.
template <class T>
void find_sigmoid(Piece<T>& piece) {
#pragma omp simd
  for (std::int64_t i = 0; i < piece.count; ++i) {
    const std::size_t c = std::size_t(i);
    const T limit = T(kLargestOffset);
    const T d = piece.offset[c] > limit ? limit : piece.offset[c] < -limit ? -limit : piece.offset[c];  // NaN stays
    const T whole = std::floor(piece.ratio[c]), fraction = piece.ratio[c] - whole;
    const T p = (fraction - T(kShift)) * T(1 / kStretch), e = cpu::exp(-d);
    const T inverse = 1 / (p + (1 - p) * e), width = T(kStretch) * p * (1 - p) * inverse;
    const T h = fraction + width * (1 - e);
    piece.u[c] = whole;
    piece.h[c] = h < 0 ? T(0) : h > 1 ? T(1) : h;
    piece.slope[c] = h < 0 || h > 1 ? T(0) : width * e * inverse;
  }
}

}  // namespace

template <class T>
void round_piece(Piece<T>& piece, const Quantiser<T>& q) {
  const T* w = q.w.row(piece.r) + piece.begin;
  const auto each = [&](const auto& body) {
#pragma omp simd
    for (std::int64_t c = 0; c < piece.count; ++c) body(std::size_t(c));
  };
  piece.s = q.scale(piece.r, piece.g), piece.s0 = q.start(piece.r, piece.g), piece.z = q.zero(piece.r, piece.g);
  each([&](std::size_t c) { piece.ratio[c] = w[c] / piece.s0; });
  find_offset(piece, q);
  if (q.rounder == Rounder::straight_through) {
    each([&](std::size_t c) { piece.u[c] = std::nearbyint(piece.ratio[c] + piece.offset[c]), piece.slope[c] = 1; });
    return;
  }
  find_sigmoid(piece);
  if (q.rounder == Rounder::sigmoid)
    each([&](std::size_t c) { piece.u[c] += piece.h[c]; });
  else
    each([&](std::size_t c) { piece.u[c] += piece.h[c] >= T(0.5) ? T(1) : T(0), piece.slope[c] = 0; });
}

template void round_piece<float>(Piece<float>&, const Quantiser<float>&);
template void round_piece<double>(Piece<double>&, const Quantiser<double>&);

void quantise_weight_forward(Context&, View w_hat, View integers, const WeightQuantiser& quantiser) {
  dispatch_float(quantiser.w.dtype, "quantise_weight_forward", [&]<class T>() {
    const Quantiser<T> q(quantiser);
    const Rows<T> y = rows<T>(w_hat);
    const Rows<std::uint8_t> f8 = rows<std::uint8_t>(integers);
    for_all_pieces(q, [&](const Piece<T>& piece) {
      T* to = y.row(piece.r) + piece.begin;
      const T s = piece.s, z = piece.z, last = q.last;
      const auto integer = [&](std::int64_t c) {
        const T v = piece.u[std::size_t(c)] + z;
        return (v < 0 ? T(0) : v > last ? last : v) - z;  // NaN stays
      };
#pragma omp simd
      for (std::int64_t c = 0; c < piece.count; ++c) to[c] = s * integer(c);
      if (!f8.data) return;
      for (std::int64_t c = 0; c < piece.count; ++c) f8(piece.r, piece.begin + c) = f32_to_f8(float(integer(c)));
    });
  });
}

void weight_codes(Context&, View codes, const WeightQuantiser& quantiser) {
  WeightQuantiser hard = quantiser;
  if (hard.rounder == Rounder::sigmoid) hard.rounder = Rounder::sigmoid_hard;
  dispatch_float(hard.w.dtype, "weight_codes", [&]<class T>() {
    const Quantiser<T> q(hard);
    const Rows<std::uint8_t> y = rows<std::uint8_t>(codes);
    for_all_pieces(q, [&](const Piece<T>& piece) {
      std::uint8_t* to = y.row(piece.r) + piece.begin;
      const T z = piece.z, last = q.last;
#pragma omp simd
      for (std::int64_t c = 0; c < piece.count; ++c) {
        const T v = piece.u[std::size_t(c)] + z, from_0 = v > 0 ? v : T(0);  // NaN, which no code stands for, gives 0
        to[c] = std::uint8_t(std::int32_t(from_0 < last ? from_0 : last));
      }
    });
  });
}

void dequantise_weight(Context&, View w_hat, View codes, const WeightGrid& grid) {
  dispatch_float(w_hat.dtype, "dequantise_weight", [&]<class T>() {
    const Rows<T> y = rows<T>(w_hat);
    const Rows<const std::uint8_t> q = rows<const std::uint8_t>(codes);
    const Rows<const T> scale = rows<const T>(grid.scale), zero = rows<const T>(grid.zero);
    const std::int64_t group = y.cols / scale.cols;
    parallel_for(y.rows, y.rows * y.cols, [&](std::int64_t r) {
      for (std::int64_t g = 0; g < scale.cols; ++g) {
        const T s = scale(r, g), z = zero(r, g);
#pragma omp simd
        for (std::int64_t c = g * group; c < (g + 1) * group; ++c) y(r, c) = s * (T(q(r, c)) - z);
      }
    });
  });
}

}  // namespace cbq::cpu
