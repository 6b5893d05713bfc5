// RMSNorm and the quantiser that reads it (cuda/rms_norm.cu, cuda/fake_quant.cu) in one pass:
//   n = x * rstd * w rounded to its type,  y = fake_quant(n)
//   dn = m dy,  dx = rstd (w dn - x rstd^2 mean_c(w dn x)) + addend,  dfactor = sum_rc dy (s/factor) (q - z - m n/s)
// n is made again from x where it is needed, so that it is neither written nor read: 4 passes over a matrix less.
#include "cuda/activation_grid.cuh"

namespace cbq::cuda {
namespace {

template <class T>
struct NormIn {
  Rows<const T> x;
  const T* w;
};

// A pack of the norm.
template <class T, int N>
__device__ Pack<T, N> normed(const Pack<float, N>& x, float rstd, const Pack<float, N>& w) {
  Pack<T, N> n;
#pragma unroll
  for (int k = 0; k < N; ++k) n.v[k] = from_float<T>(x.v[k] * rstd * w.v[k]);
  return n;
}

// Floor: x read, y and its integers written. The row is held throughout, first as x, then as n.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(QuantisedRows<T> y, float* rstd, float2* range, NormIn<T> norm, float eps,
                   DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  const std::int64_t cols = norm.x.cols;
  take_row<S>(norm.x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(norm.x, r), cols);
    float squares = 0;
    walk<S>(cols, [&](int i, auto c) {
      const Pack<float, N> v = in.at(i, c);
#pragma unroll
      for (int k = 0; k < N; ++k) squares += v.v[k] * v.v[k];
    });
    const float s = 1 / sqrtf(row_reduce<S>(squares, Sum()) / float(cols) + eps);
    const auto n = made_row<S, T>(
        [&](int i, std::int64_t c) { return normed<T>(in.at(i, c), s, load_floats<N>(norm.w + c)); }, cols);
    const float2 of_row = range_of_row<S>(n, cols);
    quantise_row<S>(y, r, n, grid_of_range(of_row, quantiser));
    if (threadIdx.x == 0) rstd[r] = s, range[r] = of_row;
  });
}

// Two rows and their grid take more than 64 registers: 768 threads a multiprocessor, and the longest rows, which would
// take 1024 for one row, are not held.
template <class S>
using BackwardShape = std::conditional_t<S::kHeld && S::kThreads == 1024, RowShape<S::kPack, 512, 0>, S>;
template <class S>
constexpr int kBackwardBlocksPerSm = S::kHeld ? (768 > S::kBlockThreads ? 768 / S::kBlockThreads : 1) : S::kBlocksPerSm;

// Floor: dy, x and the addend read, dx written; dy and x are held. of_row: the row's part of factor dfactor. An
// unwanted dx has no data.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, kBackwardBlocksPerSm<S>)
    backward_kernel(Rows<T> dx, double* of_row, Rows<const T> dy, NormIn<T> norm, const float* rstd,
                    const float2* range, DeviceQuantiser quantiser, Rows<const T> addend) {
  await_previous();
  constexpr int N = S::kPack;
  const std::int64_t cols = norm.x.cols;
  take_row<S>(norm.x.rows, [&](std::int64_t r) {
    RowIn<S, T> grad(row_of(dy, r), cols);  // dn from the first walk on
    const RowIn<S, T> in(row_of(norm.x, r), cols);
    const float s = rstd[r];
    const Step step = grid_of_range(range[r], quantiser);
    // dn of a pack. While n is divided nothing else is unpacked: registers just suffice.
    const auto masked = [&](float& sum, int i, auto c, const Pack<T, N>& w) {
      float ratio[N];
      ratios(ratio, to_floats(normed<T>(in.at(i, c), s, to_floats(w))), step);
      return straight_through(sum, grad.at(i, c), ratio, step);
    };
    float dot = 0, sum = 0;  // of a thread's columns; `sum` across threads in double
    walk<S>(cols, [&](int i, auto c) {
      const Pack<T, N> weight = load_pack<N>(norm.w + c);
      const Pack<float, N> d = masked(sum, i, c, weight), v = in.at(i, c), w = to_floats(unknown(weight));
#pragma unroll
      for (int k = 0; k < N; ++k) dot += w.v[k] * d.v[k] * v.v[k];
      if constexpr (S::kHeld) grad.put(i, from_floats<T>(d));  // exact: each is dy or 0
    });
    double totals[2] = {double(dot), double(sum)};
    row_reduce<S>(totals, Sum());
    if (threadIdx.x == 0) of_row[r] = totals[1] * double(step.s);
    if (!dx.data) return;
    const float mean = float(totals[0]) / float(cols) * s * s;
    walk<S>(cols, [&](int i, auto c) {
      const Pack<T, N> weight = load_pack<N>(norm.w + c);
      Pack<float, N> d;
      if constexpr (S::kHeld) {
        d = grad.at(i, c);
      } else {
        float counted = 0;
        d = masked(counted, i, c, weight);
      }
      const Pack<float, N> v = in.at(i, c), w = to_floats(unknown(weight));
      Pack<float, N> out = {};
      if (addend.data) out = load_floats<N>(row_of(addend, r) + c);
#pragma unroll
      for (int k = 0; k < N; ++k) out.v[k] = fmaf(s, w.v[k] * d.v[k] - v.v[k] * mean, out.v[k]);
      store_pack(row_of(dx, r) + c, from_floats<T>(out));
    });
  });
}

}  // namespace

void rms_norm_quant_forward(Context& ctx, View y, const IntegerRows& integers, View rstd, View range, View x, View w,
                            double eps, const ActivationQuantiser& quantiser) {
  if (x.rows() == 0) return;
  dispatch_value(x.dtype, "rms_norm_quant_forward", [&]<class T>() {
    const QuantisedRows<T> to(y, integers);
    const NormIn<T> norm = {rows<const T>(x), elements<const T>(w)};
    const auto run = [&]<class S>(S) {
      launch_dependent("rms_norm_quant_forward", ctx, S::rows(norm.x.rows), forward_kernel<S, T>, to,
                       elements<float>(rstd), reinterpret_cast<float2*>(elements<float>(range)), norm, float(eps),
                       on_device(quantiser));
    };
    dispatch_row<T>(norm.x.cols, run, to.values, to.integers, norm.x, as_row(norm.w, norm.x.cols));
  });
}

void rms_norm_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, View w, View rstd, View range,
                             const ActivationQuantiser& quantiser, View addend) {
  constexpr const char* kName = "rms_norm_quant_backward";
  dispatch_value(x.dtype, kName, [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), sum = rows<const T>(addend);
    const NormIn<T> norm = {rows<const T>(x), elements<const T>(w)};
    const Storage storage(ctx.allocator, norm.x.rows * std::int64_t(sizeof(double)));
    double* of_row = static_cast<double*>(storage.data());
    const auto run = [&]<class Held>(Held) {
      using S = BackwardShape<Held>;
      launch_dependent(kName, ctx, S::rows(norm.x.rows), backward_kernel<S, T>, to, of_row, grad, norm,
                       elements<const float>(rstd), reinterpret_cast<const float2*>(elements<const float>(range)),
                       on_device(quantiser), sum);
    };
    if (norm.x.rows > 0) dispatch_row<T>(norm.x.cols, run, to, grad, norm.x, sum, as_row(norm.w, norm.x.cols));
    sum_factor(kName, ctx, dfactor, of_row, norm.x.rows, on_device(quantiser));
  });
}

}  // namespace cbq::cuda
