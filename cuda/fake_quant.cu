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
#include <cfloat>

#include "cuda/rounding_weight.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

struct FakeQuant {
  const float* factor;  // (1), on the device
  int bits;
  Symmetry symmetry;
};

// A row spread over the threads of a block in packs of N: in registers, kPacks of them a thread, or with kPacks = 0
// read again by each walk.
template <int kThreads, int kPacks, int N, class T>
class BlockRow {
 public:
  __device__ BlockRow(const T* row, std::int64_t cols) : row_(row), packs_(cols / N) {
    if constexpr (kPacks > 0) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i)
        if (place(i) < packs_) pack_[i] = load_raw<N>(row_ + place(i) * N);
    }
  }

  // visit(c, pack of columns c .. c + N - 1)
  template <class Visit>
  __device__ void each_pack(const Visit& visit) const {
    if constexpr (kPacks > 0) {
#pragma unroll
      for (int i = 0; i < kPacks; ++i)
        if (place(i) < packs_) visit(place(i) * N, pack_[i]);
    } else {
      for (std::int64_t p = threadIdx.x; p < packs_; p += kThreads) visit(p * N, load_raw<N>(row_ + p * N));
    }
  }

 private:
  __device__ static int place(int i) {
    return i * kThreads + int(threadIdx.x);
  }

  const T* row_;
  std::int64_t packs_;
  Raw<T, N> pack_[kPacks > 0 ? kPacks : 1];
};

// The extremes of a block's values, NaN if there is one. All threads call it; an earlier call may still be reading.
template <int kThreads>
__device__ float2 block_range(float low, float high) {
  __shared__ float2 of_warp[kThreads / 32];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    low = min_nan(low, __shfl_xor_sync(kFullWarp, low, mask));
    high = max_nan(high, __shfl_xor_sync(kFullWarp, high, mask));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = make_float2(low, high);
  __syncthreads();
  float2 range = of_warp[0];
#pragma unroll
  for (int w = 1; w < kThreads / 32; ++w)
    range = make_float2(min_nan(range.x, of_warp[w].x), max_nan(range.y, of_warp[w].y));
  return range;
}

// The grid of a row, the same in all threads of the block.
template <int kThreads, class Row>
__device__ Step grid_of_row(const Row& row, float factor, int bits, Symmetry symmetry) {
  float low = 0, high = 0;
  row.each_pack([&]<class Pack>(std::int64_t, const Pack& x) {
#pragma unroll
    for (int n = 0; n < Pack::kCount; ++n) low = min_nan(low, x[n]), high = max_nan(high, x[n]);
  });
  const float2 extremes = block_range<kThreads>(low, high);
  low = extremes.x, high = extremes.y;
  const float last = float((1 << bits) - 1), poison = (low - low) + (high - high);  // 0, or NaN where not finite
  const bool symmetric = symmetry == Symmetry::symmetric;
  const float range = (symmetric ? 2 * fmaxf(-low, high) : high - low) + poison, s = factor * range / last;
  const float z = symmetric ? float(1 << (bits - 1)) : range > 0 ? rintf(-low * last / range) : 0.0f;
  // The floor makes an all-zero row 0 / s = 0 instead of 0 / 0; NaN stays. A multiple of s up to N / factor must not
  // overflow.
  const float normal = s < FLT_MIN ? FLT_MIN : s;
  return make_step(normal, normal, z, factor >= 0x1p-40f ? kLargestFastStep<Rounder::straight_through> : 0).with(last);
}

// Floor: x read, y written: a block has a row in registers between the reduction and the write.
template <int kThreads, int kPacks, int N, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Rows<T> y, Rows<const T> x, FakeQuant quantiser) {
  for (std::int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
    const BlockRow<kThreads, kPacks, N, T> row(row_of(x, r), x.cols);
    const Step step = grid_of_row<kThreads>(row, *quantiser.factor, quantiser.bits, quantiser.symmetry);
    row.each_pack([&](std::int64_t c, const Raw<T, N>& from) {
      float ratio[N], to[N];
      quotients(ratio, from, step, step.inverse);
#pragma unroll
      for (int n = 0; n < N; ++n) to[n] = step.s * nearest_on_grid(ratio[n], step);
      store_floats(row_of(y, r) + c, to);
    });
  }
}

// Floor: x and dy read, dx written. of_row: the row's part of dfactor. An unwanted dx has no data.
template <int kThreads, int kPacks, int N, class T>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(Rows<T> dx, double* of_row, Rows<const T> dy, Rows<const T> x, FakeQuant quantiser) {
  for (std::int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
    const BlockRow<kThreads, kPacks, N, T> row(row_of(x, r), x.cols);
    const float factor = *quantiser.factor;
    const Step step = grid_of_row<kThreads>(row, factor, quantiser.bits, quantiser.symmetry);
    float sum = 0;  // of a thread's columns; across threads in double
    row.each_pack([&](std::int64_t c, const Raw<T, N>& from) {
      const Raw<T, N> d = load_raw<N>(row_of(dy, r) + c);
      float ratio[N], to[N];
      quotients(ratio, from, step, step.inverse);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const float u = round_to_even(ratio[n]), clipped = clip_nan(u, step.low, step.high);
        const bool inside = clipped == u;
        sum = fmaf(d[n], inside ? clipped - ratio[n] : clipped, sum);
        to[n] = inside ? d[n] : 0.0f;
      }
      if (dx.data) store_floats(row_of(dx, r) + c, to);
    });
    const double total = block_reduce<kThreads>(double(sum), Sum());
    if (threadIdx.x == 0) of_row[r] = total * double(step.s) / double(factor);
  }
}

// Calls fn.template operator()<kThreads, kPacks, N>() for rows of `cols` columns.
template <class Fn>
void dispatch_row(std::int64_t cols, bool packed, const Fn& fn) {
  constexpr int N = kPackedColumns;
  if (packed && cols <= 256 * N) return fn.template operator()<256, 1, N>();
  if (packed && cols <= 1024 * N) return fn.template operator()<256, 4, N>();
  if (packed && cols <= 4096 * N) return fn.template operator()<512, 8, N>();
  fn.template operator()<256, 0, 1>();
}

unsigned blocks_for(std::int64_t rows) {
  return unsigned(std::min<std::int64_t>(rows, 1 << 30));
}

struct WriteFactor {
  float* y;
  __device__ void operator()(double sum) const { *y = float(sum); }
};

}  // namespace

void fake_quant_forward(Context& ctx, View y, View x, View factor, int bits, Symmetry symmetry) {
  if (x.count() == 0) return;
  dispatch_value(x.dtype, "fake_quant_forward", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> from = rows<const T>(x);
    dispatch_row(
        from.cols, packs<kPackedColumns>(to) && packs<kPackedColumns>(from), [&]<int kThreads, int kPacks, int N>() {
          launch("fake_quant_forward", ctx, {blocks_for(from.rows), kThreads}, forward_kernel<kThreads, kPacks, N, T>,
                 to, from, FakeQuant{elements<const float>(factor), bits, symmetry});
        });
  });
}

void fake_quant_backward(Context& ctx, View dx, View dfactor, View dy, View x, View factor, int bits,
                         Symmetry symmetry) {
  dispatch_value(x.dtype, "fake_quant_backward", [&]<class T>() {
    const Rows<T> to = rows<T>(dx);
    const Rows<const T> from = rows<const T>(x), seed = rows<const T>(dy);
    const std::int64_t row_count = from.cols == 0 ? 0 : from.rows;
    const Storage storage(ctx.allocator, row_count * std::int64_t(sizeof(double)));
    double* of_row = static_cast<double*>(storage.data());
    const bool packed = packs_or_empty<T>(dx) && packs_or_empty<T>(dy) && packs_or_empty<T>(x);
    if (row_count > 0)
      dispatch_row(from.cols, packed, [&]<int kThreads, int kPacks, int N>() {
        launch("fake_quant_backward", ctx, {blocks_for(row_count), kThreads}, backward_kernel<kThreads, kPacks, N, T>,
               to, of_row, seed, from, FakeQuant{elements<const float>(factor), bits, symmetry});
      });
    if (dfactor)
      launch("fake_quant_backward", ctx, {1, kSumThreads}, finish_sum_kernel<WriteFactor>,
             static_cast<const double*>(of_row), row_count, WriteFactor{elements<float>(dfactor)});
  });
}

}  // namespace cbq::cuda
