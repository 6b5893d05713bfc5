// Values and codes of weights, and values of codes; formulas in cuda/rounding_weight.cuh.
//
//   w_hat = s clip(u, -z, N - z), its integers w_hat / s,  q = clip(u, -z, N - z) + z,  N = 2^bits - 1;  back: w_hat =
//   s (q - z)
#include "cuda/rounding_factors.h"
#include "cuda/rounding_walk.cuh"

namespace cbq::cuda {
namespace {

// Floor: w read, w_hat written, 4 bytes a bf16 weight; a dense offset adds 4, integers add 1.
template <Rounder kRounder, Offset kOffset, int N, class T>
__global__ void __launch_bounds__(kRoundThreads) values_kernel(Rows<T> w_hat, Rows<f8> integers, Weights<T> weights) {
  __shared__ StoredStep steps[kTileSteps];
  const TileWalk<kRounder, kOffset, N, T> walk(weights, steps);
  if (!walk.active) return;
  walk.each_row(NoCursor(), [&](const Place& at, const Rounded(&rounded)[N], NoCursor::Nothing) {
    float integer[N], y[N];
#pragma unroll
    for (int n = 0; n < N; ++n) integer[n] = integer_of(rounded[n], at.step), y[n] = at.step.s * integer[n];
    store_floats(row_of(w_hat, at.r) + at.c, y);
    if (integers.data) store_f8(row_of(integers, at.r) + at.c, integer);
  });
}

// Floor: w read, codes written, 3 bytes a bf16 weight. NaN, which no code stands for, gives 0.
template <Rounder kRounder, Offset kOffset, int N, class T>
__global__ void __launch_bounds__(kRoundThreads) codes_kernel(Rows<std::uint8_t> codes, Weights<T> weights) {
  __shared__ StoredStep steps[kTileSteps];
  const TileWalk<kRounder, kOffset, N, T> walk(weights, steps);
  if (!walk.active) return;
  walk.each_row(NoCursor(), [&](const Place& at, const Rounded(&rounded)[N], NoCursor::Nothing) {
    store_codes(row_of(codes, at.r) + at.c, rounded, at.step);
  });
}

// Floor: codes read, w_hat written, 3 bytes a bf16 weight.
template <int N, class T>
__global__ void dequantise_kernel(Rows<T> w_hat, Rows<const std::uint8_t> codes, Rows<const float> scale,
                                  Rows<const float> zero) {
  const std::int64_t per_row = w_hat.cols / N, count = w_hat.rows * per_row, group = w_hat.cols / scale.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / per_row, c = (i - r * per_row) * N, g = c / group;
    const float s = row_of(scale, r)[g], z = row_of(zero, r)[g];
    const Pack<std::uint8_t, N> q = load_pack<N>(row_of(codes, r) + c);
    float y[N];
#pragma unroll
    for (int n = 0; n < N; ++n) y[n] = s * (float(q.v[n]) - z);
    store_floats(row_of(w_hat, r) + c, y);
  }
}

}  // namespace

WeightQuantiser dense_factors(Context& ctx, Tensor& scratch, const WeightQuantiser& quantiser) {
  if (!quantiser.offset.a1) return quantiser;
  scratch = Tensor(ctx, {quantiser.w.rows(), quantiser.w.cols()}, DType::f32);
  matmul(ctx, scratch, quantiser.offset.a1, Trans::no, quantiser.offset.a2, Trans::no, {}, {});
  return {quantiser.w,       quantiser.grid,        quantiser.rounder,
          {scratch, {}, {}}, quantiser.start_scale, quantiser.regulariser};
}

void quantise_weight_forward(Context& ctx, View w_hat, View integers, const WeightQuantiser& quantiser) {
  if (quantiser.w.count() == 0) return;
  if (takes_factors(quantiser)) return factor_values(ctx, w_hat, integers, quantiser);
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, quantiser);
  dispatch_value(made.w.dtype, "quantise_weight_forward", [&]<class T>() {
    const bool packed = inputs_pack<T>(made) && packs_or_empty<T>(w_hat) && packs_or_empty<f8>(integers);
    dispatch_offset(made.offset, packed, [&]<Offset kOffset, int N>() {
      dispatch_rounder(made.rounder, [&]<Rounder kRounder>() {
        const Weights<T> x = make_weights<T>(made, N);
        launch("quantise_weight_forward", ctx, tile_shape(x), values_kernel<kRounder, kOffset, N, T>, rows<T>(w_hat),
               rows<f8>(integers), x);
      });
    });
  });
}

void weight_codes(Context& ctx, View codes, const WeightQuantiser& quantiser) {
  if (quantiser.w.count() == 0) return;
  WeightQuantiser hard = quantiser;
  if (hard.rounder == Rounder::sigmoid) hard.rounder = Rounder::sigmoid_hard;
  if (takes_factors(hard)) return factor_codes(ctx, codes, hard);
  Tensor scratch;
  const WeightQuantiser made = dense_factors(ctx, scratch, hard);
  dispatch_value(made.w.dtype, "weight_codes", [&]<class T>() {
    const bool packed = inputs_pack<T>(made) && packs_or_empty<std::uint8_t>(codes);
    dispatch_offset(made.offset, packed, [&]<Offset kOffset, int N>() {
      const Weights<T> x = make_weights<T>(made, N);
      const auto run = [&](auto* kernel) {
        launch("weight_codes", ctx, tile_shape(x), kernel, rows<std::uint8_t>(codes), x);
      };
      made.rounder == Rounder::straight_through ? run(codes_kernel<Rounder::straight_through, kOffset, N, T>)
                                                : run(codes_kernel<Rounder::sigmoid_hard, kOffset, N, T>);
    });
  });
}

void dequantise_weight(Context& ctx, View w_hat, View codes, const WeightGrid& grid) {
  if (w_hat.count() == 0) return;
  dispatch_value(w_hat.dtype, "dequantise_weight", [&]<class T>() {
    const Rows<T> y = rows<T>(w_hat);
    const Rows<const std::uint8_t> q = rows<const std::uint8_t>(codes);
    const Rows<const float> scale = rows<const float>(grid.scale), zero = rows<const float>(grid.zero);
    constexpr int N = kPackedColumns;
    if (packs<N>(y) && packs<N>(q) && y.cols / scale.cols % N == 0)
      launch("dequantise_weight", ctx, shape_for(y.rows * y.cols / N), dequantise_kernel<N, T>, y, q, scale, zero);
    else
      launch("dequantise_weight", ctx, shape_for(y.rows * y.cols), dequantise_kernel<1, T>, y, q, scale, zero);
  });
}

}  // namespace cbq::cuda
