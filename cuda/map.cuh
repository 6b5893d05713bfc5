// Elementwise kernels: y_rc = f(x_rc, ...), f a device lambda on floats. Floor: one read of each x, one write of y.
#pragma once

#include "cuda/value.cuh"

namespace cbq::cuda {

template <int N, class T, class F, class... In>
__global__ void map_kernel(Rows<T> y, F f, Rows<const In>... x) {
  const std::int64_t per_row = y.cols / N, count = y.rows * per_row;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = y.rows == 1 ? 0 : i / per_row, c = (i - r * per_row) * N;
    const auto apply = [&](const Pack<In, N>&... in) {
      Pack<T, N> out;
#pragma unroll
      for (int k = 0; k < N; ++k) out.v[k] = from_float<T>(f(to_float(in.v[k])...));
      store_pack(y.data + r * y.stride + c, out);
    };
    apply(load_pack<N>(x.data + r * x.stride + c)...);
  }
}

// y may be an x. Contiguous matrices are walked as one row.
template <class T, class F, class... In>
void map(const char* name, Context& ctx, Rows<T> y, const F& f, Rows<const In>... x) {
  if (y.rows * y.cols == 0) return;
  const auto flatten = [](auto& m) { m.cols *= m.rows, m.stride = m.cols, m.rows = 1; };
  if (y.stride == y.cols && ((x.stride == x.cols) && ...)) flatten(y), (flatten(x), ...);
  constexpr int N = kPackOf<T>;
  if (packs<N>(y) && (packs<N>(x) && ...))
    launch(name, ctx, shape_for(y.rows * y.cols / N), map_kernel<N, T, F, In...>, y, f, x...);
  else
    launch(name, ctx, shape_for(y.rows * y.cols), map_kernel<1, T, F, In...>, y, f, x...);
}

}  // namespace cbq::cuda
