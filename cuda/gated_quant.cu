// The gated unit and the quantiser that reads it (cuda/activation.cu, cuda/fake_quant.cu) in one pass:
//   h = silu(gate) up rounded to its type,  y = fake_quant(h)
//   dh = m dy,  dgate = dh up silu'(gate),  dup = dh silu(gate),  dfactor = sum_rc dy (s/factor) (q - z - m h/s)
// h is made again from gate and up where it is needed, so that it is neither written nor read: 5 passes over a matrix
// less.
#include "cuda/activation_grid.cuh"
#include "cuda/silu.cuh"

namespace cbq::cuda {
namespace {

// A pack of the gated unit.
template <class T, int N>
__device__ Pack<T, N> gated(const Pack<float, N>& gate, const Pack<float, N>& up) {
  Pack<T, N> h;
#pragma unroll
  for (int k = 0; k < N; ++k) h.v[k] = from_float<T>(Gated()(gate.v[k], up.v[k]));
  return h;
}

// Floor: gate and up read, y and its integers written. The row of h is held from its range to the write.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(QuantisedRows<T> y, float2* range, Rows<const T> gate, Rows<const T> up, DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  const std::int64_t cols = gate.cols;
  take_row<S>(gate.rows, [&](std::int64_t r) {
    const T *g = row_of(gate, r), *u = row_of(up, r);
    const auto h = made_row<S, T>(
        [&](int, std::int64_t c) { return gated<T>(load_floats<N>(g + c), load_floats<N>(u + c)); }, cols);
    const float2 of_row = range_of_row<S>(h, cols);
    quantise_row<S>(y, r, h, grid_of_range(of_row, quantiser));
    if (threadIdx.x == 0) range[r] = of_row;
  });
}

template <class T>
struct GatedBackward {
  Rows<T> dgate, dup;  // without data where not wanted
  double* of_row;      // the row's part of factor dfactor
  Rows<const T> dy, gate, up;
  const float2* range;
};

// Floor: dy, gate and up read, dgate and dup written. The range is known, so a row is walked once and not held.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    backward_kernel(GatedBackward<T> a, DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(a.dy.rows, [&](std::int64_t r) {
    const Step step = grid_of_range(a.range[r], quantiser);
    float sum = 0;  // of a thread's columns; across threads in double
    walk<S>(a.dy.cols, [&](int, auto c) {
      const Pack<float, N> dy = load_floats<N>(row_of(a.dy, r) + c), gate = load_floats<N>(row_of(a.gate, r) + c),
                           up = load_floats<N>(row_of(a.up, r) + c);
      float ratio[N];
      ratios(ratio, to_floats(gated<T>(gate, up)), step);
      const Pack<float, N> dh = straight_through(sum, dy, ratio, step);
      Pack<float, N> dgate, dup;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float2 both = GatedGradient()(dh.v[k], gate.v[k], up.v[k]);
        dgate.v[k] = both.x, dup.v[k] = both.y;
      }
      if (a.dgate.data) store_pack(row_of(a.dgate, r) + c, from_floats<T>(dgate));
      if (a.dup.data) store_pack(row_of(a.dup, r) + c, from_floats<T>(dup));
    });
    const double total = row_reduce<S>(double(sum), Sum());
    if (threadIdx.x == 0) a.of_row[r] = total * double(step.s);
  });
}

}  // namespace

void gated_quant_forward(Context& ctx, View y, const IntegerRows& integers, View range, View gate, View up,
                         const ActivationQuantiser& quantiser) {
  if (y.count() == 0) return;
  dispatch_value(y.dtype, "gated_quant_forward", [&]<class T>() {
    const QuantisedRows<T> to(y, integers);
    const Rows<const T> g = rows<const T>(gate), u = rows<const T>(up);
    const auto run = [&]<class S>(S) {
      launch_dependent("gated_quant_forward", ctx, S::rows(g.rows), forward_kernel<S, T>, to,
                       reinterpret_cast<float2*>(elements<float>(range)), g, u, on_device(quantiser));
    };
    dispatch_one_row<T>(g.cols, run, to.values, to.integers, g, u);
  });
}

void gated_quant_backward(Context& ctx, View dgate, View dup, View dfactor, View dy, View gate, View up, View range,
                          const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "gated_quant_backward";
  dispatch_value(dy.dtype, kName, [&]<class T>() {
    const std::int64_t row_count = dy.count() == 0 ? 0 : dy.rows();
    const Storage storage(ctx.allocator, row_count * std::int64_t(sizeof(double)));
    const GatedBackward<T> a = {rows<T>(dgate),
                                rows<T>(dup),
                                static_cast<double*>(storage.data()),
                                rows<const T>(dy),
                                rows<const T>(gate),
                                rows<const T>(up),
                                reinterpret_cast<const float2*>(elements<const float>(range))};
    const auto run = [&]<class S>(S) {
      launch_dependent(kName, ctx, S::rows(row_count), backward_kernel<S, T>, a, on_device(quantiser));
    };
    constexpr int N = kPackOf<T>;
    const bool in_packs =
        packs_if_any<N>(a.dgate) && packs_if_any<N>(a.dup) && packs<N>(a.dy) && packs<N>(a.gate) && packs<N>(a.up);
    if (row_count > 0 && in_packs) run(RowShape<N, 256, 0>());
    if (row_count > 0 && !in_packs) run(RowShape<1, 256, 0>());
    sum_factor(kName, ctx, dfactor, a.of_row, row_count, on_device(quantiser));
  });
}

}  // namespace cbq::cuda
