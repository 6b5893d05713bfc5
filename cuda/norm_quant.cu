// A norm and the quantiser that reads it (cuda/rms_norm.cu, cuda/layer_norm.cu, cuda/fake_quant.cu) in one pass:
//   n = norm(x) rounded to its type,  y = fake_quant(n)
//   dn = m dy,  dx = the norm's of dn + addend,  dfactor = sum_rc dy (s/factor) (q - z - m n/s)
// n is made again from x where it is needed, so that it is neither written nor read: 4 passes over a matrix less.
#include "cuda/activation_grid.cuh"
#include "cuda/layer_norm.cuh"

namespace cbq::cuda {
namespace {

template <class T>
struct NormIn {
  Rows<const T> x;
  const T *w, *b;      // b, and mean below: LayerNorm only
  float *mean, *rstd;  // (R), written by the forward
};

// A norm. of_row: the statistics of row r, of which it writes the mean; kept: the same as written; normed: a pack of n.
// dx = rstd centred(..) + addend, from the means over the row of kSums terms.

// n = x rstd w;  dx = rstd (w dn - x rstd^2 mean_c(w dn x)) + addend
struct RmsNorm {
  static constexpr int kSums = 1;
  struct Statistics {
    float rstd;
  };

  template <class S, class T>
  static __device__ Statistics of_row(const NormIn<T>& norm, std::int64_t, const RowIn<S, T>& in, float eps) {
    constexpr int N = S::kPack;
    const std::int64_t cols = norm.x.cols;
    float squares = 0;
    walk<S>(cols, [&](int i, auto c) {
      const Pack<float, N> v = in.at(i, c);
#pragma unroll
      for (int k = 0; k < N; ++k) squares += v.v[k] * v.v[k];
    });
    return {1 / sqrtf(row_reduce<S>(squares, Sum()) / float(cols) + eps)};
  }
  template <class T>
  static __device__ Statistics kept(const NormIn<T>& norm, std::int64_t r) {
    return {norm.rstd[r]};
  }
  template <class T, int N>
  static __device__ Pack<T, N> normed(const NormIn<T>&, const Pack<float, N>& x, const Statistics& row,
                                      const Pack<float, N>& w, std::int64_t) {
    Pack<T, N> n;
#pragma unroll
    for (int k = 0; k < N; ++k) n.v[k] = from_float<T>(x.v[k] * row.rstd * w.v[k]);
    return n;
  }
  // g = w dn
  static __device__ void add(float (&sums)[kSums], float g, float x, const Statistics&) {
    sums[0] += g * x;
  }
  static __device__ void finish(float (&means)[kSums], const Statistics& row) {
    means[0] = means[0] * row.rstd * row.rstd;
  }
  static __device__ float centred(float g, float x, const float (&means)[kSums], const Statistics&) {
    return g - x * means[0];
  }
};

// n = (x - mean) rstd w + b;  dx = rstd (w dn - mean_c(w dn) - u mean_c(w dn u)) + addend,  u = (x - mean) rstd
struct LayerNorm {
  static constexpr int kSums = 2;
  using Statistics = RowMoments;

  template <class S, class T>
  static __device__ Statistics of_row(const NormIn<T>& norm, std::int64_t r, const RowIn<S, T>& in, float eps) {
    const RowMoments row = moments(in, norm.x.cols, eps);
    if (threadIdx.x == 0) norm.mean[r] = row.mean;  // at once: registers just suffice
    return row;
  }
  template <class T>
  static __device__ Statistics kept(const NormIn<T>& norm, std::int64_t r) {
    return {norm.mean[r], norm.rstd[r]};
  }
  template <class T, int N>
  static __device__ Pack<T, N> normed(const NormIn<T>& norm, const Pack<float, N>& x, const Statistics& row,
                                      const Pack<float, N>& w, std::int64_t c) {
    return layer_normed<T>(x, row, w, load_floats<N>(norm.b + c));
  }
  static __device__ void add(float (&sums)[kSums], float g, float x, const Statistics& row) {
    sums[0] += g;
    sums[1] += g * ((x - row.mean) * row.rstd);
  }
  static __device__ void finish(float (&)[kSums], const Statistics&) {}
  static __device__ float centred(float g, float x, const float (&means)[kSums], const Statistics& row) {
    return g - means[0] - (x - row.mean) * row.rstd * means[1];
  }
};

// Floor: x read, y and its integers written. The row is held throughout, first as x, then as n.
template <class Norm, class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(QuantisedRows<T> y, float2* range, NormIn<T> norm, float eps, DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  const std::int64_t cols = norm.x.cols;
  take_row<S>(norm.x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(norm.x, r), cols);
    const typename Norm::Statistics row = Norm::of_row(norm, r, in, eps);
    const auto n = made_row<S, T>(
        [&](int i, std::int64_t c) { return Norm::normed(norm, in.at(i, c), row, load_floats<N>(norm.w + c), c); },
        cols);
    const float2 of_row = range_of_row<S>(n, cols);
    quantise_row<S>(y, r, n, grid_of_range(of_row, quantiser));
    if (threadIdx.x == 0) norm.rstd[r] = row.rstd, range[r] = of_row;
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
template <class Norm, class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, kBackwardBlocksPerSm<S>)
    backward_kernel(Rows<T> dx, double* of_row, Rows<const T> dy, NormIn<T> norm, const float2* range,
                    DeviceQuantiser quantiser, Rows<const T> addend) {
  await_previous();
  constexpr int N = S::kPack, kSums = Norm::kSums;
  const std::int64_t cols = norm.x.cols;
  take_row<S>(norm.x.rows, [&](std::int64_t r) {
    RowIn<S, T> grad(row_of(dy, r), cols);  // dn from the first walk on
    const RowIn<S, T> in(row_of(norm.x, r), cols);
    const typename Norm::Statistics row = Norm::kept(norm, r);
    const Step step = grid_of_range(range[r], quantiser);
    // dn of a pack. While n is divided nothing else is unpacked: registers just suffice.
    const auto masked = [&](float& sum, int i, auto c, const Pack<T, N>& w) {
      float ratio[N];
      ratios(ratio, to_floats(Norm::normed(norm, in.at(i, c), row, to_floats(w), c)), step);
      return straight_through(sum, grad.at(i, c), ratio, step);
    };
    float sums[kSums] = {}, sum = 0;  // of a thread's columns; across threads in double
    walk<S>(cols, [&](int i, auto c) {
      const Pack<T, N> weight = load_pack<N>(norm.w + c);
      const Pack<float, N> d = masked(sum, i, c, weight), v = in.at(i, c), w = to_floats(unknown(weight));
#pragma unroll
      for (int k = 0; k < N; ++k) Norm::add(sums, w.v[k] * d.v[k], v.v[k], row);
      if constexpr (S::kHeld) grad.put(i, from_floats<T>(d));  // exact: each is dy or 0
    });
    double totals[kSums + 1] = {};
#pragma unroll
    for (int k = 0; k < kSums; ++k) totals[k] = double(sums[k]);
    totals[kSums] = double(sum);
    row_reduce<S>(totals, Sum());
    if (threadIdx.x == 0) of_row[r] = totals[kSums] * double(step.s);
    if (!dx.data) return;
    float means[kSums];
#pragma unroll
    for (int k = 0; k < kSums; ++k) means[k] = float(totals[k]) / float(cols);
    Norm::finish(means, row);
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
      for (int k = 0; k < N; ++k)
        out.v[k] = fmaf(row.rstd, Norm::centred(w.v[k] * d.v[k], v.v[k], means, row), out.v[k]);
      store_pack(row_of(dx, r) + c, from_floats<T>(out));
    });
  });
}

template <class Norm, class T>
void forward(const char* name, Context& ctx, View y, const IntegerRows& integers, View range, const NormIn<T>& norm,
             double eps, const ActivationQuantiser& quantiser) {
  const std::int64_t cols = norm.x.cols;
  const QuantisedRows<T> to(y, integers);
  const auto run = [&]<class S>(S) {
    launch_dependent(name, ctx, S::rows(norm.x.rows), forward_kernel<Norm, S, T>, to,
                     reinterpret_cast<float2*>(elements<float>(range)), norm, float(eps), on_device(quantiser));
  };
  if (norm.x.rows > 0)
    dispatch_row<T>(cols, run, to.values, to.integers, norm.x, as_row(norm.w, cols), as_row(norm.b, cols));
}

template <class Norm, class T>
void backward(const char* name, Context& ctx, View dx, View dfactor, View dy, View range, const NormIn<T>& norm,
              const ActivationQuantiser& quantiser, View addend) {
  const std::int64_t row_count = norm.x.rows, cols = norm.x.cols;
  const Rows<T> to = rows<T>(dx);
  const Rows<const T> grad = rows<const T>(dy), sum = rows<const T>(addend);
  const Storage storage(ctx.allocator, row_count * std::int64_t(sizeof(double)));
  double* of_row = static_cast<double*>(storage.data());
  const auto run = [&]<class Held>(Held) {
    using S = BackwardShape<Held>;
    launch_dependent(name, ctx, S::rows(row_count), backward_kernel<Norm, S, T>, to, of_row, grad, norm,
                     reinterpret_cast<const float2*>(elements<const float>(range)), on_device(quantiser), sum);
  };
  if (row_count > 0) dispatch_row<T>(cols, run, to, grad, norm.x, sum, as_row(norm.w, cols), as_row(norm.b, cols));
  sum_factor(name, ctx, dfactor, of_row, row_count, on_device(quantiser));
}

template <class T>
NormIn<T> norm_in(View x, View w, View b, View mean, View rstd) {
  return {rows<const T>(x), elements<const T>(w), elements<const T>(b), elements<float>(mean), elements<float>(rstd)};
}

}  // namespace

void rms_norm_quant_forward(Context& ctx, View y, const IntegerRows& integers, View rstd, View range, View x, View w,
                            double eps, const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "rms_norm_quant_forward";
  dispatch_value(x.dtype, kName, [&]<class T>() {
    forward<RmsNorm>(kName, ctx, y, integers, range, norm_in<T>(x, w, {}, {}, rstd), eps, quantiser);
  });
}

void rms_norm_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, View w, View rstd, View range,
                             const ActivationQuantiser& quantiser, View addend) {
  constexpr const char* kName = "rms_norm_quant_backward";
  dispatch_value(x.dtype, kName, [&]<class T>() {
    backward<RmsNorm>(kName, ctx, dx, dfactor, dy, range, norm_in<T>(x, w, {}, {}, rstd), quantiser, addend);
  });
}

void layer_norm_quant_forward(Context& ctx, View y, const IntegerRows& integers, View mean, View rstd, View range,
                              View x, View w, View b, double eps, const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "layer_norm_quant_forward";
  dispatch_value(x.dtype, kName, [&]<class T>() {
    forward<LayerNorm>(kName, ctx, y, integers, range, norm_in<T>(x, w, b, mean, rstd), eps, quantiser);
  });
}

void layer_norm_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, View w, View b, View mean,
                               View rstd, View range, const ActivationQuantiser& quantiser, View addend) {
  constexpr const char* kName = "layer_norm_quant_backward";
  dispatch_value(x.dtype, kName, [&]<class T>() {
    backward<LayerNorm>(kName, ctx, dx, dfactor, dy, range, norm_in<T>(x, w, b, mean, rstd), quantiser, addend);
  });
}

}  // namespace cbq::cuda
