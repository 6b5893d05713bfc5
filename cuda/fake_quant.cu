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
#include "cuda/activation_grid.cuh"

namespace cbq::cuda {
namespace {

// Floor: x read, y and its integers written. The row is held from its range to the write.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(QuantisedRows<T> y, Rows<const T> x, DeviceQuantiser quantiser) {
  await_previous();
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols);
    quantise_row<S>(y, r, in, grid_of_range(range_of_row<S>(in, x.cols), quantiser));
  });
}

// Floor: x and dy read, dx written; both rows are held. of_row: the row's part of factor dfactor. An unwanted dx has no
// data.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    backward_kernel(Rows<T> dx, double* of_row, Rows<const T> dy, Rows<const T> x, DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const RowIn<S, T> in(row_of(x, r), x.cols), grad(row_of(dy, r), x.cols);
    const Step step = grid_of_range(range_of_row<S>(in, x.cols), quantiser);
    float sum = 0;  // of a thread's columns; across threads in double
    walk<S>(x.cols, [&](int i, auto c) {
      float ratio[N];
      ratios(ratio, in.at(i, c), step);
      const Pack<float, N> d = straight_through(sum, grad.at(i, c), ratio, step);
      if (dx.data) store_pack(row_of(dx, r) + c, from_floats<T>(d));
    });
    const double total = row_reduce<S>(double(sum), Sum());
    if (threadIdx.x == 0) of_row[r] = total * double(step.s);
  });
}

}  // namespace

void fake_quant_forward(Context& ctx, View y, const IntegerRows& integers, View x,
                        const ActivationQuantiser& quantiser) {
  if (x.count() == 0) return;
  dispatch_value(x.dtype, "fake_quant_forward", [&]<class T>() {
    const QuantisedRows<T> to(y, integers);
    const Rows<const T> from = rows<const T>(x);
    const auto run = [&]<class S>(S) {
      launch_dependent("fake_quant_forward", ctx, S::rows(from.rows), forward_kernel<S, T>, to, from,
                       on_device(quantiser));
    };
    dispatch_one_row<T>(from.cols, run, to.values, to.integers, from);
  });
}

void fake_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, const ActivationQuantiser& quantiser) {
  dispatch_value(x.dtype, "fake_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> from = rows<const T>(x), seed = rows<const T>(dy);
    const std::int64_t row_count = from.cols == 0 ? 0 : from.rows;
    const Storage storage(ctx.allocator, row_count * std::int64_t(sizeof(double)));
    double* of_row = static_cast<double*>(storage.data());
    const auto run = [&]<class S>(S) {
      launch_dependent("fake_quant_backward", ctx, S::rows(row_count), backward_kernel<S, T>, to, of_row, seed, from,
                       on_device(quantiser));
    };
    if (row_count > 0) dispatch_row<T>(from.cols, run, to, seed, from);
    sum_factor("fake_quant_backward", ctx, dfactor, of_row, row_count, on_device(quantiser));
  });
}

}  // namespace cbq::cuda
