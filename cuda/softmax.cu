// Softmax over the columns of each row, less the row's maximum so that nothing overflows:
//   y = exp(x - max_c x) / sum_c exp(x - max_c x)
//   dx = y (dy - sum_c dy y)
#include "cuda/row_softmax.cuh"

namespace cbq::cuda {
namespace {

// Floor: x read, y written. Two fast_exp an element, one for the sum and one for the result: keeping the first would
// take twice the registers of a bf16 row.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm) forward_kernel(Rows<T> y, Rows<const T> x) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols);
    const RowSoftmax of_row = row_softmax(in, x.cols);
    const float inverse = 1 / float(of_row.sum);
    walk<S>(x.cols, [&](int i, auto c) {
      const Pack<float, N> v = in.at(i, c);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) out.v[k] = from_float<T>(fast_exp(v.v[k] - of_row.largest) * inverse);
      store_pack(row_of(y, r) + c, out);
    });
  });
}

// Floor: dy and y read, dx written; both rows are held.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    backward_kernel(Rows<T> dx, Rows<const T> dy, Rows<const T> y) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(y.rows, [&](std::int64_t r) {
    const RowIn<S, T> grad(row_of(dy, r), y.cols), value(row_of(y, r), y.cols);
    float dot = 0;
    walk<S>(y.cols, [&](int i, auto c) {
      const Pack<float, N> g = grad.at(i, c), v = value.at(i, c);
#pragma unroll
      for (int k = 0; k < N; ++k) dot += g.v[k] * v.v[k];
    });
    const float mean = row_reduce<S>(dot, Sum());
    walk<S>(y.cols, [&](int i, auto c) {
      const Pack<float, N> g = grad.at(i, c), v = value.at(i, c);
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) out.v[k] = from_float<T>(v.v[k] * (g.v[k] - mean));
      store_pack(row_of(dx, r) + c, out);
    });
  });
}

}  // namespace

void softmax_forward(Context& ctx, View y, View x) {
  if (x.rows() == 0) return;
  dispatch_value(x.dtype, "softmax_forward", [&]<class T>() {
    const Rows<T> out = rows<T>(y);
    const Rows<const T> in = rows<const T>(x);
    const auto run = [&]<class S>(S) {
      launch_dependent("softmax_forward", ctx, S::rows(in.rows), forward_kernel<S, T>, out, in);
    };
    dispatch_row<T>(in.cols, run, out, in);
  });
}

void softmax_backward(Context& ctx, View dx, View dy, View y) {
  if (y.rows() == 0) return;
  dispatch_value(y.dtype, "softmax_backward", [&]<class T>() {
    const Rows<T> out = rows<T>(dx);
    const Rows<const T> grad = rows<const T>(dy), value = rows<const T>(y);
    const auto run = [&]<class S>(S) {
      launch_dependent("softmax_backward", ctx, S::rows(value.rows), backward_kernel<S, T>, out, grad, value);
    };
    dispatch_row<T>(value.cols, run, out, grad, value);
  });
}

}  // namespace cbq::cuda
