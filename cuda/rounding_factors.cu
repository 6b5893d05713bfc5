// Values and codes of weights with a low-rank offset; formulas in cuda/rounding_weight.cuh, the layout in
// cuda/rounding_factors.cuh.
#include "cuda/rounding_factors.h"
#include "cuda/rounding_factors_launch.cuh"

namespace cbq::cuda {
namespace {

// 64 registers a thread: four blocks a multiprocessor. With three some values would go to memory on newer GPUs.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kLeastBlocks = 3;
#else
constexpr int kLeastBlocks = 4;
#endif

enum class Integers { unwanted, written };

// Floor: w read, w_hat written, 4 bytes a weight; 5 with integers.
template <Rounder kRounder, Integers kIntegers>
__global__ void __launch_bounds__(kFactorThreads, kLeastBlocks)
    values_kernel(Rows<bf16> w_hat, Rows<f8> integers, FactorWeights weights) {
  await_previous();
  extern __shared__ uint4 shared[];
  const FactorTile<kRounder> tile(weights, shared, Scaled::no);
  tile.prefetch();
  tile.fill_tables();
  tile.copy_weights();
  __syncthreads();
  char* const lane = keep(reinterpret_cast<char*>(row_of(w_hat, tile.first_row + tile.g) + tile.c));
  const int stride = int(w_hat.stride * 2);
  tile.each_held_step([&](int row, const FragmentC(&d)[4], const StepPacks& w) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int first = row + 8 * half;
      const Step step = tile.step_of(first);
      Rounded x[8];
      tile.round_row(x, step, w[half], d, half);
      float integer[8], y[8];
#pragma unroll
      for (int n = 0; n < 8; ++n) integer[n] = integer_of(x[n], step), y[n] = step.s * integer[n];
      if (!tile.active || first + tile.g >= tile.rows) continue;
      stream_words(
          lane + static_cast<long long>(first) * stride,
          make_uint4(pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]), pack_bf16(y[4], y[5]), pack_bf16(y[6], y[7])));
      if constexpr (kIntegers == Integers::written)
        store_f8(row_of(integers, tile.first_row + first + tile.g) + tile.c, integer);
    }
  });
}

// Floor: w read, codes written, 3 bytes a weight.
template <Rounder kRounder>
__global__ void __launch_bounds__(kFactorThreads, kLeastBlocks)
    codes_kernel(Rows<std::uint8_t> codes, FactorWeights weights) {
  await_previous();
  extern __shared__ uint4 shared[];
  const FactorTile<kRounder> tile(weights, shared, Scaled::no);
  tile.prefetch();
  tile.fill_tables();
  tile.copy_weights();
  __syncthreads();
  tile.each_held_step([&](int row, const FragmentC(&d)[4], const StepPacks& w) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = row + tile.g + 8 * half;
      const Step step = tile.step_of(row + 8 * half);
      Rounded x[8];
      tile.round_row(x, step, w[half], d, half);
      if (tile.active && r < tile.rows) store_codes(row_of(codes, tile.first_row + r) + tile.c, x, step);
    }
  });
}

// Tiles of kHeldRows, and the shared memory of a block.
FactorWeights held_weights(const WeightQuantiser& quantiser) {
  FactorWeights x = make_weights(quantiser);
  x.tile_rows = kHeldRows;
  return x;
}
std::size_t held_bytes(const FactorWeights& x) {
  return table_bytes(x, Scaled::no) + kHeldSteps * kStepBytes;
}

}  // namespace

bool takes_factors(const WeightQuantiser& q) {
  const std::int64_t groups = q.grid.scale.cols(), in = q.w.cols();
  return q.w.dtype == DType::bf16 && q.offset.a1 && q.offset.a1.cols() <= kFactorRank && in % 8 == 0 &&
         (groups == 1 || in / groups % kWarpColumns == 0);
}

void factor_values(Context& ctx, View w_hat, View integers, const WeightQuantiser& quantiser) {
  Tensor scratch;
  const FactorWeights x = held_weights(packed_weights(ctx, scratch, quantiser));
  packed_output<bf16>(ctx, w_hat, [&](const View& to) {
    packed_output<f8>(ctx, integers, [&](const View& to_integers) {
      dispatch_rounder(quantiser.rounder, [&]<Rounder kRounder>() {
        const auto run = [&](auto* kernel) {
          launch_tiles("quantise_weight_forward", ctx, x, held_bytes(x), kernel, rows<bf16>(to), rows<f8>(to_integers),
                       x);
        };
        integers ? run(values_kernel<kRounder, Integers::written>) : run(values_kernel<kRounder, Integers::unwanted>);
      });
    });
  });
}

void factor_codes(Context& ctx, View codes, const WeightQuantiser& quantiser) {
  Tensor scratch;
  const FactorWeights x = held_weights(packed_weights(ctx, scratch, quantiser));
  packed_output<std::uint8_t>(ctx, codes, [&](const View& to) {
    dispatch_rounder(quantiser.rounder, [&]<Rounder kRounder>() {
      launch_tiles("weight_codes", ctx, x, held_bytes(x), codes_kernel<kRounder>, rows<std::uint8_t>(to), x);
    });
  });
}

}  // namespace cbq::cuda
