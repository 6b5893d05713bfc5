// LayerNorm, Ba et al. 2016:
//   y = n * w + b,  n = (x - mean) * rstd,  rstd = 1 / sqrt(var_c(x) + eps), biased variance
//   dx = rstd (w dy - mean_c(w dy) - n mean_c(w dy n)) + addend,  dw = sum_r(dy n),  db = sum_r(dy)
#include "cuda/layer_norm.cuh"
#include "cuda/row_sums.cuh"

namespace cbq::cuda {
namespace {

// Floor: x read, y written; w and b, one row each, stay in the L1 cache. The row is held over both reductions, and w,
// on its way meanwhile, where registers suffice.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(Rows<T> y, float* mean, float* rstd, Rows<const T> x, const T* w, const T* b, float eps) {
  await_previous();
  constexpr int N = S::kPack;
  using WeightShape = std::conditional_t<kFewRegisters<S>, S, RowShape<N, S::kThreads, 0>>;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols);
    const RowIn<WeightShape, T> weights(w, x.cols);
    const RowMoments of_row = moments(in, x.cols, eps);
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> bias = load_floats<N>(b + c);
      store_pack(row_of(y, r) + c, layer_normed<T>(in.at(i, c), of_row, weights.at(i, c), bias));
    });
    if (mean && threadIdx.x == 0) mean[r] = of_row.mean;
    if (rstd && threadIdx.x == 0) rstd[r] = of_row.rstd;
  });
}

// Without dw and db a block takes one row. With them each walker takes several and keeps its columns' sums in
// registers.
enum class WeightGrad { skipped, summed };

template <class T>
struct Inputs {
  Rows<const T> dy, x, addend;  // registers do not suffice for an addend beside dw and db
  const T* w;
  const float *mean, *rstd;
};

// Floor: dy, x and the addend read, dx written.
template <class S, class T, WeightGrad kWeight>
__global__ void __launch_bounds__(S::kBlockThreads,
                                  kWeight == WeightGrad::skipped ? S::kBlocksPerSm : kWalkingBlocksPerSm<S>)
    backward_kernel(Rows<T> dx, float* partial_w, float* partial_b, Inputs<T> a) {
  await_previous();
  constexpr int N = S::kPack;
  const std::int64_t cols = a.x.cols;
  [[maybe_unused]] float dw[S::kElements] = {}, db[S::kElements] = {};
  const auto take = [&](std::int64_t r) {
    const RowIn<S, T> grad(row_of(a.dy, r), cols), in(row_of(a.x, r), cols);
    const float m = a.mean[r], s = a.rstd[r];
    float sums[2] = {};  // of w dy and w dy n
    walk<S>(cols, [&](int i, auto c) {
      const Pack<float, N> g = grad.at(i, c), v = in.at(i, c), weight = load_floats<N>(a.w + c);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float wg = weight.v[k] * g.v[k];
        sums[0] += wg;
        sums[1] += wg * ((v.v[k] - m) * s);
      }
    });
    row_reduce<S>(sums, Sum());
    const float mean_g = sums[0] / float(cols), mean_gn = sums[1] / float(cols);
    walk<S>(cols, [&](int i, auto c) {
      const Pack<float, N> g = grad.at(i, c), v = in.at(i, c), weight = load_floats<N>(a.w + c);
      Pack<float, N> sum = {};
      if (kWeight == WeightGrad::skipped && a.addend.data) sum = load_floats<N>(row_of(a.addend, r) + c);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float n = (v.v[k] - m) * s;
        out.v[k] = from_float<T>(fmaf(s, weight.v[k] * g.v[k] - mean_g - n * mean_gn, sum.v[k]));
        if constexpr (kWeight == WeightGrad::summed) dw[i * N + k] += g.v[k] * n, db[i * N + k] += g.v[k];
      }
      if (dx.data) store_pack(row_of(dx, r) + c, out);
    });
  };
  if constexpr (kWeight == WeightGrad::summed) {
    walk_rows<S>(a.x.rows, take);
    store_partial<S>(partial_w, cols, dw);
    store_partial<S>(partial_b, cols, db);
  } else {
    take_row<S>(a.x.rows, take);
  }
}

template <class T>
struct WeightTerm {
  Inputs<T> a;
  __device__ float operator()(std::int64_t r, std::int64_t c) const {
    return to_float(row_of(a.dy, r)[c]) * ((to_float(row_of(a.x, r)[c]) - a.mean[r]) * a.rstd[r]);
  }
};

template <class T>
struct BiasTerm {
  Rows<const T> dy;
  __device__ float operator()(std::int64_t r, std::int64_t c) const { return to_float(row_of(dy, r)[c]); }
};

template <class S, class T>
void backward(Context& ctx, Rows<T> dx, T* dw, T* db, const Inputs<T>& a) {
  constexpr const char* kName = "layer_norm_backward";
  const std::int64_t row_count = a.x.rows, cols = a.x.cols;
  if constexpr (kWalks<S>) {
    if (dw || db) {
      const LaunchShape shape = walkers<S>(row_count);
      const std::int64_t count = std::int64_t(shape.blocks.x) * S::kRowsPerBlock;
      const Storage storage(ctx.allocator, 2 * count * cols * std::int64_t(sizeof(float)));
      float *of_w = static_cast<float*>(storage.data()), *of_b = of_w + count * cols;
      launch_dependent(kName, ctx, shape, backward_kernel<S, T, WeightGrad::summed>, dx, of_w, of_b, a);
      return sum_partial<T>(kName, ctx, {{dw, db}, of_w, count, cols});
    }
  }
  if (dx.data && row_count > 0)
    launch_dependent(kName, ctx, S::rows(row_count), backward_kernel<S, T, WeightGrad::skipped>, dx, nullptr, nullptr,
                     a);
  sum_columns(kName, ctx, dw, row_count, cols, WeightTerm<T>{a});
  sum_columns(kName, ctx, db, row_count, cols, BiasTerm<T>{a.dy});
}

}  // namespace

void layer_norm_forward(Context& ctx, View y, View mean, View rstd, View x, View w, View b, double eps) {
  if (x.rows() == 0) return;
  dispatch_value(x.dtype, "layer_norm_forward", [&]<class T>() {
    const Rows<T> out = rows<T>(y);
    const Rows<const T> in = rows<const T>(x);
    const T *weight = elements<const T>(w), *bias = elements<const T>(b);
    const auto run = [&]<class S>(S) {
      launch_dependent("layer_norm_forward", ctx, S::rows(in.rows), forward_kernel<S, T>, out, elements<float>(mean),
                       elements<float>(rstd), in, weight, bias, float(eps));
    };
    dispatch_row<T>(in.cols, run, out, in, as_row(weight, in.cols), as_row(bias, in.cols));
  });
}

void layer_norm_backward(Context& ctx, View dx, View dw, View db, View dy, View x, View w, View mean, View rstd,
                         View addend) {
  dispatch_value(x.dtype, "layer_norm_backward", [&]<class T>() {
    const Rows<T> out = rows<T>(dx);
    const Inputs<T> in = {rows<const T>(dy),           rows<const T>(x),
                          rows<const T>(addend),       elements<const T>(w),
                          elements<const float>(mean), elements<const float>(rstd)};
    const auto run = [&]<class S>(S) { backward<S, T>(ctx, out, elements<T>(dw), elements<T>(db), in); };
    dispatch_row<T>(in.x.cols, run, out, in.dy, in.x, in.addend, as_row(in.w, in.x.cols));
  });
}

}  // namespace cbq::cuda
