// Elementwise kernels: y_rc = f(x_rc, ...), f a device lambda on floats. Floor: one read of each x, one write of each
// y.
#pragma once

#include "cuda/value.cuh"

namespace cbq::cuda {

// Contiguous matrices of one shape become one row.
template <class... M>
void flatten(std::int64_t& rows, std::int64_t& cols, M&... matrices) {
  if (!((!matrices.data || matrices.stride == cols) && ...)) return;
  cols *= rows, rows = 1;
  ((matrices.rows = 1, matrices.cols = cols, matrices.stride = cols), ...);
}

template <int N, class T, class F, class... In>
__global__ void map_kernel(Rows<T> y, F f, Rows<const In>... x) {
  await_previous();
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
  std::int64_t row_count = y.rows, cols = y.cols;
  flatten(row_count, cols, y, x...);
  constexpr int N = kPackOf<T>;
  if (packs<N>(y) && (packs<N>(x) && ...))
    launch_dependent(name, ctx, shape_for(y.rows * y.cols / N), map_kernel<N, T, F, In...>, y, f, x...);
  else
    launch_dependent(name, ctx, shape_for(y.rows * y.cols), map_kernel<1, T, F, In...>, y, f, x...);
}

// ---- two outputs

// (y0, y1)_rc = f(x_rc, ...), f on floats to a float2. An output without data is not wanted. Floor: one read of each x,
// one write of each y; one pack of each a thread.
template <int N, class T, class F, class... In>
__global__ void map_two_kernel(Rows<T> y0, Rows<T> y1, std::int64_t rows, std::int64_t cols, F f, Rows<const In>... x) {
  await_previous();
  const std::int64_t per_row = cols / N, count = rows * per_row;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = rows == 1 ? 0 : i / per_row, c = (i - r * per_row) * N;
    const auto apply = [&](const Pack<In, N>&... in) {
      Pack<T, N> out0, out1;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float2 both = f(to_float(in.v[k])...);
        out0.v[k] = from_float<T>(both.x), out1.v[k] = from_float<T>(both.y);
      }
      if (y0.data) store_pack(row_of(y0, r) + c, out0);
      if (y1.data) store_pack(row_of(y1, r) + c, out1);
    };
    apply(load_pack<N>(row_of(x, r) + c)...);
  }
}

template <class T, class F, class... In>
void map_two(const char* name, Context& ctx, Rows<T> y0, Rows<T> y1, std::int64_t rows, std::int64_t cols, const F& f,
             Rows<const In>... x) {
  if (rows * cols == 0 || (!y0.data && !y1.data)) return;
  flatten(rows, cols, y0, y1, x...);
  constexpr int N = kPackOf<T>;
  if (packs_if_any<N>(y0) && packs_if_any<N>(y1) && (packs<N>(x) && ...))
    launch_dependent(name, ctx, shape_for(rows * cols / N), map_two_kernel<N, T, F, In...>, y0, y1, rows, cols, f,
                     x...);
  else
    launch_dependent(name, ctx, shape_for(rows * cols), map_two_kernel<1, T, F, In...>, y0, y1, rows, cols, f, x...);
}

}  // namespace cbq::cuda
