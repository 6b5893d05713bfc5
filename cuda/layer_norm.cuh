// The moments of a row and its LayerNorm: what the op and the one fused with a quantiser share, so that both give the
// same bits. Formulas: cuda/layer_norm.cu.
#pragma once

#include "cuda/row.cuh"

namespace cbq::cuda {

// Whether a row that is held leaves registers for more: those of the widest shape do not suffice on every GPU.
template <class S>
constexpr bool kFewRegisters = S::kHeld&& S::kThreads < 1024;

// Mean and squared distances from it, summed, of 2n numbers from those of n and n   (Chan et al. 1983, eq. 2.1)
struct Moments {
  float mean, squares;
  __device__ void join(float other_mean, float other_squares, float n) {
    const float difference = other_mean - mean;
    mean = 0.5f * (mean + other_mean);
    squares = (squares + other_squares) + difference * difference * (0.5f * n);  // alike from both sides
  }
};

// The moments of a row that fills its shape: one reduction of pairs.
template <class S, class T>
__device__ Moments moments_of_full_row(const RowIn<S, T>& in) {
  constexpr int kWarps = S::kThreads / 32;
  constexpr std::int64_t cols = S::kColumns;
  float sum = 0;
  Moments row = {};
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, S::kPack> v = in.at(i, c);
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) sum += v.v[k];
  });
  row.mean = sum / float(S::kElements);
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, S::kPack> v = in.at(i, c);
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) row.squares += (v.v[k] - row.mean) * (v.v[k] - row.mean);
  });
  const auto over = [&](int threads, float n) {
#pragma unroll
    for (int offset = 1; offset < threads; offset *= 2, n *= 2)
      row.join(__shfl_xor_sync(kFullWarp, row.mean, offset), __shfl_xor_sync(kFullWarp, row.squares, offset), n);
  };
  over(32, S::kElements);
  if constexpr (kWarps > 1) {
    __shared__ Moments of_warp[kWarps];
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = row;
    __syncthreads();
    row = of_warp[threadIdx.x % kWarps];
    over(kWarps, 32 * S::kElements);
  }
  return row;
}

struct RowMoments {
  float mean, rstd;
};

// Mean and 1 / sqrt(variance + eps) of a row; the variance from the centred row, which loses no digits to the mean.
template <class S, class T>
__device__ RowMoments moments(const RowIn<S, T>& in, std::int64_t cols, float eps) {
  if constexpr (kFewRegisters<S>) {
    if (cols == S::kColumns) {
      const Moments row = moments_of_full_row(in);
      return {row.mean, 1 / sqrtf(row.squares / float(cols) + eps)};
    }
  }
  float sum = 0, squares = 0;
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, S::kPack> v = in.at(i, c);
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) sum += v.v[k];
  });
  const float mean = row_reduce<S>(sum, Sum()) / float(cols);
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, S::kPack> v = in.at(i, c);
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) squares += (v.v[k] - mean) * (v.v[k] - mean);
  });
  return {mean, 1 / sqrtf(row_reduce<S>(squares, Sum()) / float(cols) + eps)};
}

// A pack of (x - mean) * rstd * w + b.
template <class T, int N>
__device__ Pack<T, N> layer_normed(const Pack<float, N>& x, const RowMoments& row, const Pack<float, N>& w,
                                   const Pack<float, N>& b) {
  Pack<T, N> n;
#pragma unroll
  for (int k = 0; k < N; ++k) n.v[k] = from_float<T>(fmaf((x.v[k] - row.mean) * row.rstd, w.v[k], b.v[k]));
  return n;
}

}  // namespace cbq::cuda
