// L = mean((a - b)^2);  da = 2 dL (a - b) / count, db = -da
#include "cuda/map.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

// Floor: one read of a and b. Pack sums in f32, all others in double.
template <int N, class T>
__global__ void __launch_bounds__(kSumThreads) mse_kernel(double* of_block, Rows<const T> a, Rows<const T> b) {
  await_previous();
  const std::int64_t per_row = a.cols / N, count = a.rows * per_row;
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = blockIdx.x * std::int64_t(kSumThreads) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * kSumThreads) {
    const std::int64_t r = a.rows == 1 ? 0 : i / per_row, c = (i - r * per_row) * N;
    const Pack<T, N> x = load_pack<N>(row_of(a, r) + c), y = load_pack<N>(row_of(b, r) + c);
    float of_pack = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float difference = to_float(x.v[k]) - to_float(y.v[k]);
      of_pack += difference * difference;
    }
    sum += double(of_pack);
  }
  const double total = block_reduce<kSumThreads>(sum, Sum());
  if (threadIdx.x == 0) of_block[blockIdx.x] = total;
}

struct WriteMean {
  float* loss;
  double count;
  __device__ void operator()(double sum) const { *loss = float(sum / count); }
};

struct MseGradient {
  const float* dloss;
  float two_by_count;
  __device__ float2 operator()(float a, float b) const {
    const float da = *dloss * two_by_count * (a - b);
    return {da, -da};
  }
};

template <int N, class T>
void mse(Context& ctx, float* loss, Rows<const T> a, Rows<const T> b, std::int64_t count) {
  const std::int64_t needed = (count / N + kSumThreads - 1) / kSumThreads;
  const std::int64_t blocks = needed < 1 ? 1 : needed < kSumBlocks ? needed : kSumBlocks;
  const Storage partial(ctx.allocator, blocks * std::int64_t(sizeof(double)));
  double* of_block = static_cast<double*>(partial.data());
  launch_dependent("mse_forward", ctx, {unsigned(blocks), kSumThreads}, mse_kernel<N, T>, of_block, a, b);
  launch_dependent("mse_forward", ctx, {1, kSumThreads}, finish_sum_kernel<WriteMean>,
                   static_cast<const double*>(of_block), blocks, WriteMean{loss, double(count)});
}

}  // namespace

void mse_forward(Context& ctx, View loss, View a, View b) {
  dispatch_value(a.dtype, "mse_forward", [&]<class T>() {
    Rows<const T> x = rows<const T>(a), y = rows<const T>(b);
    std::int64_t row_count = x.rows, cols = x.cols;
    flatten(row_count, cols, x, y);
    constexpr int N = kPackOf<T>;
    if (packs<N>(x) && packs<N>(y))
      mse<N>(ctx, elements<float>(loss), x, y, a.count());
    else
      mse<1>(ctx, elements<float>(loss), x, y, a.count());
  });
}

void mse_backward(Context& ctx, View da, View db, View dloss, View a, View b) {
  dispatch_value(a.dtype, "mse_backward", [&]<class T>() {
    const MseGradient gradient = {elements<const float>(dloss), float(2.0 / double(a.count()))};
    map_two("mse_backward", ctx, rows<T>(da), rows<T>(db), a.rows(), a.cols(), gradient, rows<const T>(a),
            rows<const T>(b));
  });
}

}  // namespace cbq::cuda
