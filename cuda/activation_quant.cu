// An activation or the gated unit and the quantiser that reads it (cuda/activation.cu, cuda/fake_quant.cu) in one pass:
//   h = f(x), or silu(x) up, rounded to its type,  y = fake_quant(h)
//   dh = m dy,  dfactor = sum_rc dy (s/factor) (q - z - m h/s)
//   dx = dh f'(x), or dx = dh up silu'(x) and dup = dh silu(x)
// h is made again where it is needed, so that it is neither written nor read: 5 passes over a matrix less.
#include "cuda/activation.cuh"
#include "cuda/activation_grid.cuh"

namespace cbq::cuda {
namespace {

// h of x, and of up where that is an input; the gradients of both.
template <class A>
struct Activated {
  static constexpr bool kHasUp = false;
  static constexpr bool kHoldsLongRows = !std::is_same_v<A, Gelu>;  // erfc leaves no registers for 24 packs
  static __device__ float h(float x, float) { return A::f(x); }
  static __device__ float2 gradients(float dh, float x, float) { return {dh * A::slope(x), 0}; }
};
struct GatedUnit {
  static constexpr bool kHasUp = true, kHoldsLongRows = true;
  static __device__ float h(float gate, float up) { return Gated()(gate, up); }
  static __device__ float2 gradients(float dh, float gate, float up) { return GatedGradient()(dh, gate, up); }
};

// A pack of up; zeros where that is no input.
template <class F, int N, class T>
__device__ Pack<float, N> load_up(const Rows<const T>& up, std::int64_t r, std::int64_t c) {
  if constexpr (F::kHasUp)
    return load_floats<N>(row_of(up, r) + c);
  else
    return {};
}

// A pack of h.
template <class F, class T, int N>
__device__ Pack<T, N> made(const Pack<float, N>& x, const Pack<float, N>& up) {
  Pack<T, N> h;
#pragma unroll
  for (int k = 0; k < N; ++k) h.v[k] = from_float<T>(F::h(x.v[k], up.v[k]));
  return h;
}

// Floor: the inputs read, y and its integers written. The row of h is held from its range to the write.
template <class F, class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    forward_kernel(QuantisedRows<T> y, float2* range, Rows<const T> x, Rows<const T> up, DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  const std::int64_t cols = x.cols;
  take_row<S>(x.rows, [&](std::int64_t r) {
    const T* from = row_of(x, r);
    const auto h = made_row<S, T>(
        [&](int, std::int64_t c) { return made<F, T>(load_floats<N>(from + c), load_up<F, N>(up, r, c)); }, cols);
    const float2 of_row = range_of_row<S>(h, cols);
    quantise_row<S>(y, r, h, grid_of_range(of_row, quantiser));
    if (threadIdx.x == 0) range[r] = of_row;
  });
}

template <class T>
struct Backward {
  Rows<T> dx, dup;  // without data where not wanted
  double* of_row;   // the row's part of factor dfactor
  Rows<const T> dy, x, up;
  const float2* range;
};

// Floor: dy and the inputs read, their gradients written. The range is known, so a row is walked once and not held.
template <class F, class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    backward_kernel(Backward<T> a, DeviceQuantiser quantiser) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(a.dy.rows, [&](std::int64_t r) {
    const Step step = grid_of_range(a.range[r], quantiser);
    float sum = 0;  // of a thread's columns; across threads in double
    walk<S>(a.dy.cols, [&](int, auto c) {
      const Pack<float, N> dy = load_floats<N>(row_of(a.dy, r) + c), x = load_floats<N>(row_of(a.x, r) + c),
                           up = load_up<F, N>(a.up, r, c);
      float ratio[N];
      ratios(ratio, to_floats(made<F, T>(x, up)), step);
      const Pack<float, N> dh = straight_through(sum, dy, ratio, step);
      Pack<float, N> dx, dup;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float2 both = F::gradients(dh.v[k], x.v[k], up.v[k]);
        dx.v[k] = both.x, dup.v[k] = both.y;
      }
      if (a.dx.data) store_pack(row_of(a.dx, r) + c, from_floats<T>(dx));
      if (F::kHasUp && a.dup.data) store_pack(row_of(a.dup, r) + c, from_floats<T>(dup));
    });
    const double total = row_reduce<S>(double(sum), Sum());
    if (threadIdx.x == 0) a.of_row[r] = total * double(step.s);
  });
}

template <class F, class T>
void forward(const char* name, Context& ctx, View y, const IntegerRows& integers, View range, Rows<const T> x,
             Rows<const T> up, const ActivationQuantiser& quantiser) {
  if (y.count() == 0) return;
  const QuantisedRows<T> to(y, integers);
  const auto run = [&]<class S>(S) {
    launch_dependent(name, ctx, S::rows(x.rows), forward_kernel<F, S, T>, to,
                     reinterpret_cast<float2*>(elements<float>(range)), x, up, on_device(quantiser));
  };
  if constexpr (F::kHoldsLongRows)
    dispatch_one_row<T>(x.cols, run, to.values, to.integers, x, up);
  else
    dispatch_row<T>(x.cols, run, to.values, to.integers, x, up);
}

template <class F, class T>
void backward(const char* name, Context& ctx, View dx, View dup, View dfactor, View dy, Rows<const T> x,
              Rows<const T> up, View range, const ActivationQuantiser& quantiser) {
  const std::int64_t row_count = dy.count() == 0 ? 0 : dy.rows();
  const Storage storage(ctx.allocator, row_count * std::int64_t(sizeof(double)));
  const Backward<T> a = {rows<T>(dx),
                         rows<T>(dup),
                         static_cast<double*>(storage.data()),
                         rows<const T>(dy),
                         x,
                         up,
                         reinterpret_cast<const float2*>(elements<const float>(range))};
  const auto run = [&]<class S>(S) {
    launch_dependent(name, ctx, S::rows(row_count), backward_kernel<F, S, T>, a, on_device(quantiser));
  };
  constexpr int N = kPackOf<T>;
  const bool in_packs =
      packs_if_any<N>(a.dx) && packs_if_any<N>(a.dup) && packs<N>(a.dy) && packs<N>(a.x) && packs_if_any<N>(a.up);
  if (row_count > 0 && in_packs) run(RowShape<N, 256, 0>());
  if (row_count > 0 && !in_packs) run(RowShape<1, 256, 0>());
  sum_factor(name, ctx, dfactor, a.of_row, row_count, on_device(quantiser));
}

}  // namespace

void activation_quant_forward(Context& ctx, View y, const IntegerRows& integers, View range, View x, Activation kind,
                              const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "activation_quant_forward";
  dispatch_value(y.dtype, kName, [&]<class T>() {
    dispatch_activation(kind, [&]<class A>() {
      forward<Activated<A>, T>(kName, ctx, y, integers, range, rows<const T>(x), {}, quantiser);
    });
  });
}

void activation_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, View range, Activation kind,
                               const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "activation_quant_backward";
  dispatch_value(dy.dtype, kName, [&]<class T>() {
    dispatch_activation(kind, [&]<class A>() {
      backward<Activated<A>, T>(kName, ctx, dx, {}, dfactor, dy, rows<const T>(x), {}, range, quantiser);
    });
  });
}

void gated_quant_forward(Context& ctx, View y, const IntegerRows& integers, View range, View gate, View up,
                         const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "gated_quant_forward";
  dispatch_value(y.dtype, kName, [&]<class T>() {
    forward<GatedUnit, T>(kName, ctx, y, integers, range, rows<const T>(gate), rows<const T>(up), quantiser);
  });
}

void gated_quant_backward(Context& ctx, View dgate, View dup, View dfactor, View dy, View gate, View up, View range,
                          const ActivationQuantiser& quantiser) {
  constexpr const char* kName = "gated_quant_backward";
  dispatch_value(dy.dtype, kName, [&]<class T>() {
    backward<GatedUnit, T>(kName, ctx, dgate, dup, dfactor, dy, rows<const T>(gate), rows<const T>(up), range,
                           quantiser);
  });
}

}  // namespace cbq::cuda
