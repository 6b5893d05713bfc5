// GPTQ (Frantar et al. 2022, 2210.17323, algorithm 1): codes chosen column by column, each column's rounding error made
// up for by the columns still to come, so that the error in the layer's output, (w - w_hat) h (w - w_hat)^T, stays
// small. What is kept is w_j as it was rounded, from which the codes follow.
//
//   u upper triangular, inverse(h) = u^T u
//   for j in order: q_j = clip(round(w_j / s) + z), e = (w_j - w_hat_j) / u_jj, w_k -= e u_jk for all k > j
#include <cmath>
#include <limits>
#include <vector>

#include "cpu/backend.h"
#include "cpu/parallel.h"

// LAPACK: Cholesky factor, and inverse of a triangle, in place. Column-major; info > 0 is the pivot that failed.
extern "C" {
void dpotrf_(const char* triangle, const int* n, double* a, const int* stride, int* info);
void dtrtri_(const char* triangle, const char* diagonal, const int* n, double* a, const int* stride, int* info);
}

namespace cbq::cpu {
namespace {

// Columns whose errors are held back from the columns behind them, and rows that do so together: one block of u
// (kBlock x kTile doubles) then serves all of these rows from the second cache level.
constexpr std::int64_t kBlock = 128, kTile = 256, kRowsTogether = 16;

// h reversed in rows and columns has a lower Cholesky factor L. Reversed again it is upper: h = r r^T, and
// inverse(h) = r^-T r^-1, so that u = r^-1. The inverse of h itself, which would lose digits, is never formed.
// LAPACK counts columns first: its upper triangle is the lower one of our rows.
template <class T>
void cholesky_of_inverse(Rows<T> u, Rows<const T> h) {
  const std::int64_t n = h.rows;
  require(n <= std::numeric_limits<int>::max(), "cholesky_of_inverse: at most 2^31 - 1 rows, got ", n);
  std::vector<double> factor(std::size_t(n * n));
  const auto reversed = [&](std::int64_t i, std::int64_t j) -> double& {
    return factor[std::size_t((n - 1 - i) * n + (n - 1 - j))];
  };
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) reversed(i, j) = double(h(i, j));

  const int size = int(n);
  int pivot = 0;
  dpotrf_("U", &size, factor.data(), &size, &pivot);
  for (std::int64_t i = n - 1; i >= 0 && pivot == 0; --i)
    if (!std::isfinite(reversed(i, i))) pivot = int(n - i);
  require(pivot == 0, "cholesky_of_inverse: expected a positive definite matrix, but pivot ", pivot, " (column ",
          n - pivot, ") is not positive; raise the damping of the diagonal");
  dtrtri_("U", "N", &size, factor.data(), &size, &pivot);
  require(pivot == 0, "cholesky_of_inverse: the factor is singular at pivot ", pivot,
          "; raise the damping of the diagonal");

  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < n; ++j) u(i, j) = j < i ? T(0) : T(reversed(i, j));
}

template <class T>
struct Problem {
  Rows<T> compensated;
  Rows<const T> w, scale, zero, u;
  const std::int32_t* order;
  T last;
  std::int64_t group;
};

// Rounds columns [begin, end) of the order in row r. `left` is the row in that order, less what earlier blocks took;
// the scaled errors go to `error`.
template <class T>
void quantise_block(const Problem<T>& p, std::int64_t r, std::int64_t begin, std::int64_t end, double* left,
                    double* error) {
  for (std::int64_t j = begin; j < end; ++j) {
    const std::int64_t c = p.order[j], g = c / p.group;
    const T s = p.scale(r, g), z = p.zero(r, g);
    const T w = T(left[j]), v = std::nearbyint(w / s) + z, q = v > 0 ? (v < p.last ? v : p.last) : T(0);
    p.compensated(r, c) = w;
    const double e = (left[j] - double(s) * double(q - z)) / double(p.u(j, j));
    error[j - begin] = e;
    const T* u = p.u.row(j);
#pragma omp simd
    for (std::int64_t k = j + 1; k < end; ++k) left[k] -= e * double(u[k]);
  }
}

// left_k -= sum_j error_j u_jk for j in [begin, end), k in [from, to)
template <class T>
void take_errors(const Problem<T>& p, std::int64_t begin, std::int64_t end, std::int64_t from, std::int64_t to,
                 double* left, const double* error) {
  std::int64_t j = begin;
  for (; j + 4 <= end; j += 4) {
    const T *u0 = p.u.row(j), *u1 = p.u.row(j + 1), *u2 = p.u.row(j + 2), *u3 = p.u.row(j + 3);
    const double* e = error + (j - begin);
#pragma omp simd
    for (std::int64_t k = from; k < to; ++k)
      left[k] -= e[0] * double(u0[k]) + e[1] * double(u1[k]) + e[2] * double(u2[k]) + e[3] * double(u3[k]);
  }
  for (; j < end; ++j) {
    const T* u = p.u.row(j);
#pragma omp simd
    for (std::int64_t k = from; k < to; ++k) left[k] -= error[j - begin] * double(u[k]);
  }
}

template <class T>
void quantise_rows(const Problem<T>& p, std::int64_t first, std::int64_t count) {
  const std::int64_t n = p.w.cols;
  std::vector<double> left(std::size_t(count * n)), error(std::size_t(count * kBlock));
  for (std::int64_t i = 0; i < count; ++i)
    for (std::int64_t j = 0; j < n; ++j) left[std::size_t(i * n + j)] = double(p.w(first + i, p.order[j]));
  for (std::int64_t begin = 0; begin < n; begin += kBlock) {
    const std::int64_t end = std::min(n, begin + kBlock);
    for (std::int64_t i = 0; i < count; ++i)
      quantise_block(p, first + i, begin, end, &left[std::size_t(i * n)], &error[std::size_t(i * kBlock)]);
    for (std::int64_t from = end; from < n; from += kTile)
      for (std::int64_t i = 0; i < count; ++i)
        take_errors(p, begin, end, from, std::min(n, from + kTile), &left[std::size_t(i * n)],
                    &error[std::size_t(i * kBlock)]);
  }
}

}  // namespace

void cholesky_of_inverse(Context&, View u, View h) {
  dispatch_float(h.dtype, "cholesky_of_inverse", [&]<class T>() { cholesky_of_inverse(rows<T>(u), rows<const T>(h)); });
}

void gptq_weights(Context&, View compensated, View w, const WeightGrid& grid, View u, View order) {
  dispatch_float(w.dtype, "gptq_weights", [&]<class T>() {
    const Rows<const T> scale = rows<const T>(grid.scale);
    const Problem<T> p{rows<T>(compensated),     rows<const T>(w),     scale,
                       rows<const T>(grid.zero), rows<const T>(u),     elements<const std::int32_t>(order),
                       T((1 << grid.bits) - 1),  w.cols() / scale.cols};
    parallel_for((p.w.rows + kRowsTogether - 1) / kRowsTogether, p.w.rows * p.w.cols, [&](std::int64_t i) {
      quantise_rows(p, i * kRowsTogether, std::min(kRowsTogether, p.w.rows - i * kRowsTogether));
    });
  });
}

}  // namespace cbq::cpu
