// RMSNorm, Zhang & Sennrich 2019, eq. 4:
//   y = x * rstd * w,  rstd = 1 / sqrt(mean_c(x^2) + eps)
//   dx = rstd (w dy - x rstd^2 mean_c(w dy x)) + addend,  dw = sum_r(dy x rstd)
#include "cuda/row_sums.cuh"

namespace cbq::cuda {
namespace {

// Floor: x read, y written; w, one row, stays in the L1 cache. The row is held from the sum of squares to the write.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(Rows<T> y, float* rstd, Rows<const T> x, const T* w, float eps) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols);
    float squares = 0;
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> v = in.at(i, c);
#pragma unroll
      for (int k = 0; k < N; ++k) squares += v.v[k] * v.v[k];
    });
    const float s = 1 / sqrtf(row_reduce<S>(squares, Sum()) / float(x.cols) + eps);
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> v = in.at(i, c), weight = load_floats<N>(w + c);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) out.v[k] = from_float<T>(v.v[k] * s * weight.v[k]);
      store_pack(row_of(y, r) + c, out);
    });
    if (rstd && threadIdx.x == 0) rstd[r] = s;
  });
}

// Without dw a block takes one row. With it each walker takes several and keeps its columns' sums in registers.
enum class WeightGrad { skipped, summed };

// Floor: dy, x and the addend read, dx written.
template <class S, class T, WeightGrad kWeight>
__global__ void __launch_bounds__(S::kBlockThreads,
                                  kWeight == WeightGrad::skipped ? S::kBlocksPerSm : kWalkingBlocksPerSm<S>)
    backward_kernel(Rows<T> dx, float* partial, Rows<const T> dy, Rows<const T> x, const T* w, const float* rstd,
                    Rows<const T> addend) {
  await_previous();
  constexpr int N = S::kPack;
  [[maybe_unused]] float dw[S::kElements] = {};
  const auto take = [&](std::int64_t r) {
    const RowIn<S, T> grad(row_of(dy, r), x.cols), in(row_of(x, r), x.cols);
    float dot = 0;
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> g = grad.at(i, c), v = in.at(i, c), weight = load_floats<N>(w + c);
#pragma unroll
      for (int k = 0; k < N; ++k) dot += weight.v[k] * g.v[k] * v.v[k];
    });
    const float s = rstd[r], mean = row_reduce<S>(dot, Sum()) / float(x.cols) * s * s;
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> g = grad.at(i, c), v = in.at(i, c), weight = load_floats<N>(w + c);
      Pack<float, N> sum = {};
      if (kWeight == WeightGrad::skipped && addend.data) sum = load_floats<N>(row_of(addend, r) + c);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        out.v[k] = from_float<T>(fmaf(s, weight.v[k] * g.v[k] - v.v[k] * mean, sum.v[k]));
        if constexpr (kWeight == WeightGrad::summed) dw[i * N + k] += g.v[k] * v.v[k] * s;
      }
      if (dx.data) store_pack(row_of(dx, r) + c, out);
    });
  };
  if constexpr (kWeight == WeightGrad::summed) {
    walk_rows<S>(x.rows, take);
    store_partial<S>(partial, x.cols, dw);
  } else {
    take_row<S>(x.rows, take);
  }
}

template <class T>
struct WeightTerm {
  Rows<const T> dy, x;
  const float* rstd;
  __device__ float operator()(std::int64_t r, std::int64_t c) const {
    return to_float(row_of(dy, r)[c]) * to_float(row_of(x, r)[c]) * rstd[r];
  }
};

template <class S, class T>
void backward(Context& ctx, Rows<T> dx, T* dw, Rows<const T> dy, Rows<const T> x, const T* w, const float* rstd,
              Rows<const T> addend) {
  constexpr const char* kName = "rms_norm_backward";
  if constexpr (kWalks<S>) {
    if (dw) {
      const LaunchShape shape = walkers<S>(x.rows);
      const std::int64_t count = std::int64_t(shape.blocks.x) * S::kRowsPerBlock;
      const Storage storage(ctx.allocator, count * x.cols * std::int64_t(sizeof(float)));
      float* partial = static_cast<float*>(storage.data());
      launch_dependent(kName, ctx, shape, backward_kernel<S, T, WeightGrad::summed>, dx, partial, dy, x, w, rstd,
                       addend);
      return sum_partial<T>(kName, ctx, {{dw, nullptr}, partial, count, x.cols});
    }
  }
  if (dx.data && x.rows > 0)
    launch_dependent(kName, ctx, S::rows(x.rows), backward_kernel<S, T, WeightGrad::skipped>, dx, nullptr, dy, x, w,
                     rstd, addend);
  sum_columns(kName, ctx, dw, x.rows, x.cols, WeightTerm<T>{dy, x, rstd});
}

}  // namespace

void rms_norm_forward(Context& ctx, View y, View rstd, View x, View w, double eps) {
  if (x.rows() == 0) return;
  dispatch_value(x.dtype, "rms_norm_forward", [&]<class T>() {
    const Rows<T> out = rows<T>(y);
    const Rows<const T> in = rows<const T>(x);
    const T* weight = elements<const T>(w);
    const auto run = [&]<class S>(S) {
      launch_dependent("rms_norm_forward", ctx, S::rows(in.rows), forward_kernel<S, T>, out, elements<float>(rstd), in,
                       weight, float(eps));
    };
    dispatch_row<T>(in.cols, run, out, in, as_row(weight, in.cols));
  });
}

void rms_norm_backward(Context& ctx, View dx, View dw, View dy, View x, View w, View rstd, View addend) {
  dispatch_value(x.dtype, "rms_norm_backward", [&]<class T>() {
    const Rows<T> out = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), in = rows<const T>(x), sum = rows<const T>(addend);
    const T* weight = elements<const T>(w);
    const auto run = [&]<class S>(S) {
      backward<S, T>(ctx, out, elements<T>(dw), grad, in, weight, elements<const float>(rstd), sum);
    };
    dispatch_row<T>(in.cols, run, out, grad, in, sum, as_row(weight, in.cols));
  });
}

}  // namespace cbq::cuda
