// Activations on the integer grid of their own row, one learned factor on all ranges.
//
//   y = s (q - z),  q = clip(round(x/s) + z, 0, N),  N = 2^bits - 1, round: ties to even
//   symmetric:  s = factor max_c|x| / (N/2),                              z = 2^(bits-1)
//   asymmetric: s = factor (hi - lo) / N, lo = min(0, min_c x), hi = max(0, max_c x), z = round(-lo N / (hi - lo))
//
// Backward, straight through the round, with the row's range and z held constant (LSQ, 1902.08153, eq. 3); m = 1 where
// not clipped, else 0:
//   dx = m dy,  dfactor = sum_rc dy (s/factor) (q - z - m x/s)
// A row that holds a NaN or an infinity is NaN throughout.
#include <cfloat>

#include "cuda/rounding_weight.cuh"
#include "cuda/row.cuh"

namespace cbq::cuda {
namespace {

struct FakeQuant {
  const float* factor;  // (1), on the device
  int bits;
  Symmetry symmetry;
};

// The grid of a row, the same in all its threads.
template <class S, class T>
__device__ Step grid_of_row(const RowIn<S, T>& row, std::int64_t cols, float factor, int bits, Symmetry symmetry) {
  float extremes[2] = {};  // of -x and x
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, S::kPack> x = row.at(i, c);
#pragma unroll
    for (int k = 0; k < S::kPack; ++k)
      extremes[0] = max_nan(extremes[0], -x.v[k]), extremes[1] = max_nan(extremes[1], x.v[k]);
  });
  row_reduce<S>(extremes, [](float a, float b) { return max_nan(a, b); });
  const float low = -extremes[0], high = extremes[1], last = float((1 << bits) - 1);
  const float poison = (low - low) + (high - high);  // 0, or NaN where not finite
  const bool symmetric = symmetry == Symmetry::symmetric;
  const float range = (symmetric ? 2 * fmaxf(-low, high) : high - low) + poison, s = factor * range / last;
  const float z = symmetric ? float(1 << (bits - 1)) : range > 0 ? rintf(-low * last / range) : 0.0f;
  // The floor makes an all-zero row 0 / s = 0 instead of 0 / 0; NaN stays. A multiple of s up to N / factor must not
  // overflow.
  const float normal = s < FLT_MIN ? FLT_MIN : s;
  return make_step(normal, normal, z, factor >= 0x1p-40f ? kLargestFastStep<Rounder::straight_through> : 0).with(last);
}

// x / s of a pack.
template <int N>
__device__ void ratios(float (&ratio)[N], const Pack<float, N>& x, const Step& step) {
  if (step.inverse != 0) {
#pragma unroll
    for (int k = 0; k < N; ++k) ratio[k] = fast_quotient(x.v[k], step);
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) ratio[k] = x.v[k] / step.s;
  }
}

// Floor: x read, y written. The row is held from its range to the write.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(Rows<T> y, Rows<const T> x, FakeQuant quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols);
    const Step step = grid_of_row(in, x.cols, *quantiser.factor, quantiser.bits, quantiser.symmetry);
    walk<S>(x.cols, [&](int i, auto c) {
      float ratio[N];
      ratios(ratio, in.at(i, c), step);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) out.v[k] = from_float<T>(step.s * nearest_on_grid(ratio[k], step));
      store_pack(row_of(y, r) + c, out);
    });
  });
}

// Floor: x and dy read, dx written; both rows are held. of_row: the row's part of factor dfactor. An unwanted dx has no
// data.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    backward_kernel(Rows<T> dx, double* of_row, Rows<const T> dy, Rows<const T> x, FakeQuant quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols), grad(row_of(dy, r), x.cols);
    const Step step = grid_of_row(in, x.cols, *quantiser.factor, quantiser.bits, quantiser.symmetry);
    float sum = 0;  // of a thread's columns; across threads in double
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> d = grad.at(i, c);
      float ratio[N];
      ratios(ratio, in.at(i, c), step);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float u = round_to_even(ratio[k]), clipped = clip_nan(u, step.low, step.high);
        const bool inside = clipped == u;
        sum = fmaf(d.v[k], inside ? clipped - ratio[k] : clipped, sum);
        out.v[k] = from_float<T>(inside ? d.v[k] : 0.0f);
      }
      if (dx.data) store_pack(row_of(dx, r) + c, out);
    });
    const double total = row_reduce<S>(double(sum), Sum());
    if (threadIdx.x == 0) of_row[r] = total * double(step.s);
  });
}

struct WriteFactor {
  float* y;
  const float* factor;
  __device__ void operator()(double sum) const { *y = float(sum / double(*factor)); }
};

}  // namespace

void fake_quant_forward(Context& ctx, View y, View x, View factor, int bits, Symmetry symmetry) {
  if (x.count() == 0) return;
  dispatch_value(x.dtype, "fake_quant_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> from = rows<const T>(x);
    const auto run = [&]<class S>(S) {
      launch_dependent("fake_quant_forward", ctx, S::rows(from.rows), forward_kernel<S, T>, to, from,
                       FakeQuant{elements<const float>(factor), bits, symmetry});
    };
    dispatch_row<T>(from.cols, run, to, from);
  });
}

void fake_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, View factor, int bits,
                         Symmetry symmetry) {
  dispatch_value(x.dtype, "fake_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> from = rows<const T>(x), seed = rows<const T>(dy);
    const std::int64_t row_count = from.cols == 0 ? 0 : from.rows;
    const Storage storage(ctx.allocator, row_count * std::int64_t(sizeof(double)));
    double* of_row = static_cast<double*>(storage.data());
    const auto run = [&]<class S>(S) {
      launch_dependent("fake_quant_backward", ctx, S::rows(row_count), backward_kernel<S, T>, to, of_row, seed, from,
                       FakeQuant{elements<const float>(factor), bits, symmetry});
    };
    if (row_count > 0) dispatch_row<T>(from.cols, run, to, seed, from);
    if (dfactor)
      launch_dependent("fake_quant_backward", ctx, {1, kSumThreads}, finish_sum_kernel<WriteFactor>,
                       static_cast<const double*>(of_row), row_count,
                       WriteFactor{elements<float>(dfactor), elements<const float>(factor)});
  });
}

}  // namespace cbq::cuda
