// Elementwise kernels: the formula of each is the lambda it passes to map.
//
//   scale_rows:    y_rc = x_rc s_r
//   scale_columns: y_rc = x_rc s_c
#include "cuda/map.cuh"

namespace cbq::cuda {
namespace {

// Floor: one read of x, one write of y; s stays in the first cache level. One pack a thread, as map_kernel, which has
// no place for an operand of one number a row.
template <int N, class T, class S>
__global__ void scale_rows_kernel(Rows<T> y, Rows<const T> x, const S* s) {
  await_previous();
  const std::int64_t per_row = y.cols / N, count = y.rows * per_row;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / per_row, c = (i - r * per_row) * N;
    const float factor = to_float(s[r]);
    Pack<T, N> value = load_pack<N>(x.data + r * x.stride + c);
#pragma unroll
    for (int k = 0; k < N; ++k) value.v[k] = from_float<T>(to_float(value.v[k]) * factor);
    store_pack(y.data + r * y.stride + c, value);
  }
}

}  // namespace

void add(Context& ctx, View y, View a, View b) {
  const auto f = [] __device__(float u, float v) { return u + v; };
  dispatch_value(y.dtype, "add",
                 [&]<class T>() { map("add", ctx, rows<T>(y), f, rows<const T>(a), rows<const T>(b)); });
}

void mul(Context& ctx, View y, View a, View b) {
  const auto f = [] __device__(float u, float v) { return u * v; };
  dispatch_value(y.dtype, "mul",
                 [&]<class T>() { map("mul", ctx, rows<T>(y), f, rows<const T>(a), rows<const T>(b)); });
}

void scale(Context& ctx, View y, View x, double alpha) {
  const float factor = float(alpha);
  const auto f = [factor] __device__(float u) { return factor * u; };
  dispatch_value(y.dtype, "scale", [&]<class T>() { map("scale", ctx, rows<T>(y), f, rows<const T>(x)); });
}

void scaled_exp(Context& ctx, View y, View base, View x) {
  const auto f = [] __device__(float start, float u) { return start * expf(u); };
  dispatch_value(y.dtype, "scaled_exp",
                 [&]<class T>() { map("scaled_exp", ctx, rows<T>(y), f, rows<const T>(base), rows<const T>(x)); });
}

void clamp(Context& ctx, View y, View x, double low, double high) {
  const float lo = float(low), hi = float(high);
  // Both comparisons are false for NaN.
  const auto f = [lo, hi] __device__(float u) { return u < lo ? lo : (u > hi ? hi : u); };
  dispatch_value(y.dtype, "clamp", [&]<class T>() { map("clamp", ctx, rows<T>(y), f, rows<const T>(x)); });
}

void scale_rows(Context& ctx, View y, View x, View s) {
  if (y.count() == 0) return;
  dispatch_value(y.dtype, "scale_rows", [&]<class T>() {
    dispatch_value(s.dtype, "scale_rows", [&]<class S>() {
      const Rows<T> to = rows<T>(y);
      const Rows<const T> from = rows<const T>(x);
      constexpr int N = kPackOf<T>;
      if (packs<N>(to) && packs<N>(from))
        launch_dependent("scale_rows", ctx, shape_for(y.count() / N), scale_rows_kernel<N, T, S>, to, from,
                         elements<const S>(s));
      else
        launch_dependent("scale_rows", ctx, shape_for(y.count()), scale_rows_kernel<1, T, S>, to, from,
                         elements<const S>(s));
    });
  });
}

void scale_columns(Context& ctx, View y, View x, View s) {
  const auto f = [] __device__(float u, float v) { return u * v; };
  dispatch_value(y.dtype, "scale_columns", [&]<class T>() {
    dispatch_value(s.dtype, "scale_columns", [&]<class S>() {
      // The factors as a matrix whose rows all lie at the same address.
      const Rows<const S> factors{elements<const S>(s), y.rows(), y.cols(), 0};
      map("scale_columns", ctx, rows<T>(y), f, rows<const T>(x), factors);
    });
  });
}

}  // namespace cbq::cuda
