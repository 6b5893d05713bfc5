// Gradients of the quantised weight, and of the regulariser that drives h to 0 or 1. Formulas of u, h, h':
// cpu/rounding.h.
//
//   m = 1 where 0 <= u + z <= 2^bits - 1, else 0
//   dw = m s/s0 dw_hat;  dscale = sum_group dw_hat (q - z - m w/s);  dzero = -s sum_group (1-m) dw_hat
// where m w/s of dscale is left out when u is decided on a start_scale, which s does not move.
//   doffset = m s du/dd dw_hat + lambda dL_com/dd;  da1 = doffset a2^T;  da2 = a1^T doffset
//   L_com = mean(1 - |2h - 1|^beta)   (AdaRound 2004.10568, eq. 24);
//   dL_com/dd = -2 beta sign(2h-1) |2h-1|^(beta-1) h' / count
#include <bit>
#include <cmath>
#include <vector>

#include "core/tensor.h"
#include "cpu/backend.h"
#include "cpu/rounding.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

// Rows of a2 whose gradients are summed together.
constexpr std::int64_t kRankBlock = 8;

// da1 = doffset a2^T and da2 = a1^T doffset; an unwanted one has no data.
template <class T>
void factor_gradients(Rows<T> da1, Rows<T> da2, Rows<T> doffset, const Quantiser<T>& q) {
  const std::int64_t work = doffset.rows * doffset.cols;
  if (da1.data)
    parallel_for(doffset.rows, work, [&](std::int64_t r) {
      for (std::int64_t k = 0; k < q.a2.rows; ++k) {
        const T *d = doffset.row(r), *right = q.a2.row(k);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (std::int64_t c = 0; c < doffset.cols; ++c) sum += double(d[c]) * double(right[c]);
        da1(r, k) = T(sum);
      }
    });
  if (da2.data)
    parallel_for((doffset.cols + kSumColumns - 1) / kSumColumns, work, [&](std::int64_t block) {
      const std::int64_t begin = block * kSumColumns, width = std::min(kSumColumns, doffset.cols - begin);
      for (std::int64_t k0 = 0; k0 < q.a1.cols; k0 += kRankBlock) {
        const std::int64_t ranks = std::min(kRankBlock, q.a1.cols - k0);
        double sum[kRankBlock][kSumColumns] = {},
               d[kSumColumns] = {};  // zero behind `width`: the inner loop's length is fixed
        for (std::int64_t r = 0; r < doffset.rows; ++r) {
          const T *from = doffset.row(r) + begin, *left = q.a1.row(r) + k0;
          std::copy_n(from, width, d);
          for (std::int64_t k = 0; k < ranks; ++k) {
            const double factor = double(left[k]);
#pragma omp simd
            for (std::int64_t c = 0; c < kSumColumns; ++c) sum[k][c] += factor * d[c];
          }
        }
        for (std::int64_t k = 0; k < ranks; ++k)
          for (std::int64_t c = 0; c < width; ++c) da2(k0 + k, begin + c) = T(sum[k][c]);
      }
    });
}

// Where the gradient of the whole offset goes: into `dense`, or into scratch that factor_gradients contracts.
// No data where no offset is learned.
template <class T>
Rows<T> offset_gradient(Context& ctx, Tensor& scratch, const WeightQuantiserGrads& grads, const WeightQuantiser& q) {
  if (grads.dense) return rows<T>(grads.dense);
  if (grads.a1 || grads.a2) scratch = Tensor(ctx, {q.w.rows(), q.w.cols()}, q.w.dtype);
  return rows<T>(scratch);
}

// log(x) for finite x >= 2^-126, to 2e-7 absolute, in a form that vectorises. x = 2^n m, m in [sqrt(1/2), sqrt(2)), and
// log m = 2 (f + f^3/3 + f^5/5 + ...), f = (m - 1) / (m + 1); the first term left out is below 1e-9.
inline float log_of_normal(float x) {
  constexpr std::uint32_t kSqrtHalf = 0x3f3504f3u;  // bits of sqrt(1/2)
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::int32_t n = std::int32_t(bits - kSqrtHalf) >> 23;
  const float m = std::bit_cast<float>(bits - (std::uint32_t(n) << 23)), f = (m - 1) / (m + 1), f2 = f * f;
  return float(n) * 0x1.62e430p-1f + 2 * f * (1 + f2 * (1.f / 3 + f2 * (1.f / 5 + f2 * (1.f / 7 + f2 * (1.f / 9)))));
}

// x^exponent for 0 <= x <= 1. In float 0 stands for 2^-126: beside the sign(0) = 0 it is multiplied by, the result is
// the same.
inline float power(float x, float exponent) {
  const float positive = x < 0x1p-126f ? 0x1p-126f : x;
  return cpu::exp(exponent * log_of_normal(positive)) + (x - x);  // the bits of a NaN would pass for a number
}
inline double power(double x, double exponent) {
  return std::pow(x, exponent);
}

// lambda dL_com/doffset of a piece, added to `doffset`: factor sign(2h-1) |2h-1|^exponent h'
template <class T>
void add_regulariser(T* doffset, const Piece<T>& piece, T factor, T exponent) {
#pragma omp simd
  for (std::int64_t i = 0; i < piece.count; ++i) {
    const std::size_t c = std::size_t(i);
    const T x = 2 * piece.h[c] - 1, sign = x > 0 ? T(1) : x < 0 ? T(-1) : T(0);
    doffset[i] += factor * sign * power(std::abs(x), exponent) * piece.slope[c];
  }
}

template <class T>
void backward(Context& ctx, const WeightQuantiserGrads& grads, Rows<const T> dw_hat, const WeightQuantiser& quantiser) {
  const Quantiser<T> q(quantiser);
  const Rows<T> dw = rows<T>(grads.w), dscale = rows<T>(grads.scale), dzero = rows<T>(grads.zero);
  const T* regulariser = elements<const T>(quantiser.regulariser);
  const T lambda = regulariser ? regulariser[0] : T(0), beta = regulariser ? regulariser[1] : T(1);
  const T factor = T(-2 * double(lambda) * double(beta) / double(quantiser.w.count())), exponent = beta - 1;
  Tensor scratch;
  const Rows<T> doffset = offset_gradient<T>(ctx, scratch, grads, quantiser);
  parallel_for(q.w.rows, q.w.rows * q.w.cols, [&](std::int64_t r) {
    double scale_sum = 0, clipped_sum = 0;
    const auto visit = [&](const Piece<T>& piece) {
      const T* dy = dw_hat.row(r) + piece.begin;
      const T s = piece.s, z = piece.z, last = q.last, moves = q.decided_on == DecidedOn::scale ? T(1) : T(0);
      std::array<T, kPiece> passed;  // m dw_hat
      double ds = 0, dz = 0;
#pragma omp simd reduction(+ : ds, dz)
      for (std::int64_t i = 0; i < piece.count; ++i) {
        const std::size_t c = std::size_t(i);
        const T u = piece.u[c], ratio = piece.ratio[c], v = u + z;
        const T clipped = (v < 0 ? T(0) : v > last ? last : v) - z, free = u - moves * ratio;
        const bool inside = v >= 0 && v <= last;
        passed[c] = inside ? dy[i] : T(0);
        ds += double(dy[i]) * double(inside ? free : clipped);
        dz += double(dy[i] - passed[c]);
      }
      scale_sum += ds, clipped_sum += dz;
      if (dw.data) {
        T* to = dw.row(r) + piece.begin;
        const T per_w = s / piece.s0;
#pragma omp simd
        for (std::int64_t i = 0; i < piece.count; ++i) to[i] = per_w * passed[std::size_t(i)];
      }
      if (doffset.data) {
        T* to = doffset.row(r) + piece.begin;
#pragma omp simd
        for (std::int64_t i = 0; i < piece.count; ++i) to[i] = s * piece.slope[std::size_t(i)] * passed[std::size_t(i)];
        if (regulariser) add_regulariser(to, piece, factor, exponent);
      }
    };
    for_pieces_of_row(q, r, visit, [&](std::int64_t, std::int64_t g) {
      if (dscale.data) dscale(r, g) = T(scale_sum);
      if (dzero.data) dzero(r, g) = T(-double(q.scale(r, g)) * clipped_sum);
      scale_sum = clipped_sum = 0;
    });
  });
  if (scratch) factor_gradients(rows<T>(grads.a1), rows<T>(grads.a2), doffset, q);
}

}  // namespace

void quantise_weight_backward(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat,
                              const WeightQuantiser& quantiser) {
  dispatch_float(dw_hat.dtype, "quantise_weight_backward",
                 [&]<class T>() { backward(ctx, grads, rows<const T>(dw_hat), quantiser); });
}

}  // namespace cbq::cpu
