// Cross entropy of a softmax, per row: L_r = lse(x) - x_target, lse(x) = max x + log sum_c exp(x - max x);
// dx = dL_r (softmax(x) - onehot(target)). 0 where target < 0, NaN where it is beyond the columns, for which the device
// does not stop.
#include "cuda/row_softmax.cuh"

namespace cbq::cuda {
namespace {

// Floor: logits read, in one walk.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    cross_entropy_forward_kernel(float* loss, Rows<const T> logits, const std::int32_t* targets) {
  await_previous();
  take_row<S>(logits.rows, [&](std::int64_t r) {
    const std::int32_t target = targets[r];
    if (target < 0 || target >= logits.cols) {
      if (threadIdx.x == 0) loss[r] = target < 0 ? 0 : NAN;
      return;
    }
    const RowIn<S, T> in(row_of(logits, r), logits.cols);
    const RowSoftmax of_row = row_softmax(in, logits.cols);
    if (threadIdx.x == 0)
      loss[r] = float(log(of_row.sum) + (double(of_row.largest) - double(to_float(row_of(logits, r)[target]))));
  });
}

// Floor: logits read, dlogits written. A row too long to be held is read twice.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    cross_entropy_backward_kernel(Rows<T> dlogits, const float* dloss, Rows<const T> logits,
                                  const std::int32_t* targets) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(logits.rows, [&](std::int64_t r) {
    const std::int32_t target = targets[r];
    if (target < 0) {
      walk<S>(logits.cols, [&](int, auto c) {
        Pack<T, N> zeros;
#pragma unroll
        for (int k = 0; k < N; ++k) zeros.v[k] = from_float<T>(0);
        store_pack(row_of(dlogits, r) + c, zeros);
      });
      return;
    }
    const RowIn<S, T> in(row_of(logits, r), logits.cols);
    const RowSoftmax of_row = row_softmax(in, logits.cols);
    const float seed = target < logits.cols ? dloss[r] : NAN, per_p = 1 / float(of_row.sum);
    walk<S>(logits.cols, [&](int i, auto c) {
      const Pack<float, N> v = in.at(i, c);
      const std::int64_t after = target - std::int64_t(c);
      const int place = after >= 0 && after < N ? int(after) : -1;  // of the target in this pack
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float p = fast_exp(v.v[k] - of_row.largest) * per_p;
        out.v[k] = from_float<T>(seed * (k == place ? p - 1 : p));
      }
      store_pack(row_of(dlogits, r) + c, out);
    });
  });
}

}  // namespace

void cross_entropy_forward(Context& ctx, View loss, View logits, View targets) {
  if (logits.rows() == 0) return;
  dispatch_value(logits.dtype, "cross_entropy_forward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(logits);
    const auto run = [&]<class S>(S) {
      launch_dependent("cross_entropy_forward", ctx, S::rows(x.rows), cross_entropy_forward_kernel<S, T>,
                       elements<float>(loss), x, elements<const std::int32_t>(targets));
    };
    dispatch_row<T>(x.cols, run, x);
  });
}

void cross_entropy_backward(Context& ctx, View dlogits, View dloss, View logits, View targets) {
  if (logits.rows() == 0) return;
  dispatch_value(logits.dtype, "cross_entropy_backward", [&]<class T>() {
    const Rows<T> dx = rows<T>(dlogits);
    const Rows<const T> x = rows<const T>(logits);
    const auto run = [&]<class S>(S) {
      launch_dependent("cross_entropy_backward", ctx, S::rows(x.rows), cross_entropy_backward_kernel<S, T>, dx,
                       elements<const float>(dloss), x, elements<const std::int32_t>(targets));
    };
    dispatch_row<T>(x.cols, run, dx, x);
  });
}

}  // namespace cbq::cuda
