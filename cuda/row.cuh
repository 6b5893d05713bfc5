// Rows of a matrix, each held by one block or one warp: what norms, softmaxes and losses over columns share.
//
// A kernel that reduces a row and then writes one reads each element once when the row stays in registers in between:
// kPacks packs of kPack elements a thread, at most 16 registers an input. Which widths get how many threads is chosen
// from the number of columns at launch (dispatch_row). A row too long for that is read again at each walk; the second
// time it comes from the L2 cache, as long as the rows in flight fit there.
#pragma once

#include <cfloat>
#include <cmath>

#include "cuda/sum.cuh"

namespace cbq::cuda {

// kThreads threads hold a row of up to kColumns; with kPacks = 0 any row, not held. A warp a row where kThreads is 32.
template <int N, int T, int P>
struct RowShape {
  static constexpr int kPack = N, kThreads = T, kPacks = P;
  static constexpr int kRowsPerBlock = T == 32 ? 4 : 1, kBlockThreads = T * kRowsPerBlock;
  // 1024 threads a multiprocessor, 64 registers each: other rows are under way while this one is reduced. Rows without
  // packs need an address an element, and very long ones unroll their loops: both are rare and may take 128.
  static constexpr int kBlocksPerSm = (N == 1 || P == 0 ? 512 : 1024) / kBlockThreads;
  // Of a kernel that keeps sums over rows besides: 128 registers a thread.
  static constexpr int kWalkingBlocksPerSm = 512 / kBlockThreads;
  static constexpr bool kHeld = P > 0;
  static constexpr int kElements = kHeld ? N * P : 1;  // that one thread holds
  static constexpr std::int64_t kColumns = std::int64_t(N) * T * P;

  // The grid of take_row: kRowsPerBlock rows a block, 2^30 blocks along x.
  static LaunchShape rows(std::int64_t count) {
    const std::int64_t blocks = (count + kRowsPerBlock - 1) / kRowsPerBlock, most = 1 << 30;
    return {dim3(unsigned(blocks < most ? blocks : most), unsigned((blocks + most - 1) / most)),
            dim3(kThreads, kRowsPerBlock)};
  }
  // The grid of walk_rows: at least 8 rows a walker, and at most the blocks that the 132 multiprocessors of an H200 run
  // at once; a constant, so that the order of the sums depends on the shape alone.
  static LaunchShape walkers(std::int64_t count) {
    const std::int64_t blocks = (count + 8 * kRowsPerBlock - 1) / (8 * kRowsPerBlock), most = 132 * kWalkingBlocksPerSm;
    return {unsigned(blocks < 1 ? 1 : blocks < most ? blocks : most), dim3(kThreads, kRowsPerBlock)};
  }
};

// Whether every row of m can be walked in packs of N elements, or m is not there.
template <int N, class M>
bool packs_if_any(const M& m) {
  return !m.data || packs<N>(m);
}

// A vector of `cols` elements as a matrix of one row.
template <class T>
Rows<const T> as_row(const T* data, std::int64_t cols) {
  return {data, 1, cols, cols};
}

// fn(S()) with the RowShape S for rows of `cols` elements of T; `rows` are all matrices that are read in packs.
template <class T, class Fn, class... M>
void dispatch_row(std::int64_t cols, const Fn& fn, const M&... rows) {
  constexpr int N = kPackOf<T>;
  if ((packs_if_any<N>(rows) && ...)) {
    if (cols <= RowShape<N, 32, 4>::kColumns) return fn(RowShape<N, 32, 4>());
    if (cols <= RowShape<N, 128, 4>::kColumns) return fn(RowShape<N, 128, 4>());
    if (cols <= RowShape<N, 256, 4>::kColumns) return fn(RowShape<N, 256, 4>());
    if (cols <= RowShape<N, 512, 4>::kColumns) return fn(RowShape<N, 512, 4>());
    return fn(RowShape<N, 512, 0>());
  }
  if (cols <= RowShape<1, 32, 16>::kColumns) return fn(RowShape<1, 32, 16>());
  if (cols <= RowShape<1, 512, 16>::kColumns) return fn(RowShape<1, 512, 16>());
  return fn(RowShape<1, 512, 0>());
}

template <class T>
__device__ T* row_of(const Rows<T>& m, std::int64_t r) {
  return m.data + r * m.stride;
}

// fn(r) for the row r of this thread in a grid S::rows(count). All threads of a row make the same calls, so fn may
// reduce. No loop: what it would keep costs the registers that a row needs.
template <class S, class Fn>
__device__ void take_row(std::int64_t count, const Fn& fn) {
  const std::int64_t block = std::int64_t(blockIdx.y) * gridDim.x + blockIdx.x,
                     r = block * S::kRowsPerBlock + threadIdx.y;
  if (r < count) fn(r);
}

// The number of this thread's walker: the threads that take one row after the other in a grid S::walkers(count).
template <class S>
__device__ std::int64_t walker() {
  return std::int64_t(blockIdx.x) * S::kRowsPerBlock + threadIdx.y;
}

// fn(r) for every row r of this walker.
template <class S, class Fn>
__device__ void walk_rows(std::int64_t count, const Fn& fn) {
  for (std::int64_t r = walker<S>(); r < count; r += std::int64_t(gridDim.x) * S::kRowsPerBlock) fn(r);
}

// fn(i, c) for each pack of this thread: its number i among those held, 0 if none is, and its first column c.
template <class S, class Fn>
__device__ void walk(std::int64_t cols, const Fn& fn) {
  if constexpr (S::kHeld) {
#pragma unroll
    for (int i = 0; i < S::kPacks; ++i) {
      const int c = (i * S::kThreads + int(threadIdx.x)) * S::kPack;
      if (c < cols) fn(i, c);
    }
  } else {
#pragma unroll 2
    for (std::int64_t c = std::int64_t(threadIdx.x) * S::kPack; c < cols; c += S::kThreads * S::kPack) fn(0, c);
  }
}

// One row as an input. at(i, c) takes the arguments of walk.
template <class S, class T>
class RowIn {
 public:
  __device__ RowIn(const T* row, std::int64_t cols) : row_(row) {
    if constexpr (S::kHeld) walk<S>(cols, [&](int i, auto c) { held_[i] = load_pack<S::kPack>(row + c); });
  }
  __device__ Pack<T, S::kPack> at(int i, std::int64_t c) const {
    if constexpr (S::kHeld)
      return reread(held_[i]);
    else
      return load_pack<S::kPack>(row_ + c);
  }

 private:
  // The same pack, but unknown to the compiler, which would otherwise keep the f32 values of the first walk for the
  // next: twice the registers of a bf16 row.
  static __device__ Pack<T, S::kPack> reread(Pack<T, S::kPack> pack) {
    if constexpr (sizeof(T) < 4 && sizeof(pack) == 16) {
      uint4& words = reinterpret_cast<uint4&>(pack);
      asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
    }
    return pack;
  }

  const T* row_;
  Pack<T, S::kPack> held_[S::kHeld ? S::kPacks : 1];
};

// Each of K values reduced over the threads of a row, with the barriers of one reduction: over each warp, then in every
// warp over the warps' results. The same result in every thread.
template <class S, int K, class V, class Op>
__device__ void row_reduce(V (&value)[K], Op op) {
  constexpr int kWarps = S::kThreads / 32;  // a power of two
#pragma unroll
  for (int k = 0; k < K; ++k) value[k] = warp_reduce(value[k], op);
  if constexpr (kWarps > 1) {
    __shared__ V of_warp[kWarps][K];
    __syncthreads();  // an earlier call may still be reading
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int k = 0; k < K; ++k) of_warp[threadIdx.x / 32][k] = value[k];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < K; ++k) {
      value[k] = of_warp[threadIdx.x % kWarps][k];
#pragma unroll
      for (int offset = kWarps / 2; offset > 0; offset /= 2)
        value[k] = op(value[k], __shfl_xor_sync(kFullWarp, value[k], offset));
    }
  }
}

template <class S, class V, class Op>
__device__ V row_reduce(V value, Op op) {
  V values[1] = {value};
  row_reduce<S>(values, op);
  return values[0];
}

// e^x in three instructions: 2^(x log2 e) by the special function unit. The relative error is at most 2^-22 + 8e-8 |x|,
// so for x <= 0 the error is below 3e-7 of e^0. Subnormal results are 0; infinities and NaN are as expf gives them.
__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
  return y;
}

// softmax(x)_c = fast_exp(x_c - largest) / sum
struct RowSoftmax {
  float largest;
  double sum;
};

// In one walk: each thread keeps the largest element so far and the sum of exp(x - largest), scaled down whenever the
// largest grows. NaN never becomes the largest, but every NaN reaches the sum. The walk starts from -FLT_MAX, not from
// -infinity, so that a thread which meets -infinity alone adds 0 and not NaN.
template <class S, class T>
__device__ RowSoftmax row_softmax(const RowIn<S, T>& x, std::int64_t cols) {
  float largest = -FLT_MAX, sum = 0;
  walk<S>(cols, [&](int i, auto c) {
    const Pack<T, S::kPack> in = x.at(i, c);
    float above = largest, of_pack = 0;
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) above = fmaxf(above, to_float(in.v[k]));
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) of_pack += fast_exp(to_float(in.v[k]) - above);
    sum = sum * fast_exp(largest - above) + of_pack;
    largest = above;
  });
  const float of_row = row_reduce<S>(largest, Max());
  return {of_row, row_reduce<S>(double(sum * fast_exp(largest - of_row)), Sum())};
}

// ---- sums over rows that a kernel takes along: each walker adds up its rows' terms in registers and writes one row of
// partial sums; these are then summed in order.

// Writes this walker's partial sums, held as walk counts them, into its row of `partial`.
template <class S>
__device__ void store_partial(float* partial, std::int64_t cols, const float (&sums)[S::kElements]) {
  float* row = partial + walker<S>() * cols;
  walk<S>(cols, [&](int i, auto c) {
    Pack<float, S::kPack> out;
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) out.v[k] = sums[i * S::kPack + k];
    store_pack(row + c, out);
  });
}

constexpr int kPartialLanes = 16;

// y_c = sum_i partial_ic. 32 columns a block, so that a warp reads 128 bytes and 8192 columns fill the device; each of
// kPartialLanes warps takes every kPartialLanes-th row. Floor: one read of partial, which is in the L2 cache.
template <class T>
__global__ void sum_partial_kernel(T* y, const float* partial, std::int64_t count, std::int64_t cols) {
  __shared__ float of_lane[kPartialLanes][32];
  const std::int64_t c = std::int64_t(blockIdx.x) * 32 + threadIdx.x;
  float sum = 0;
  if (c < cols) {
#pragma unroll 4
    for (std::int64_t i = threadIdx.y; i < count; i += kPartialLanes) sum += partial[i * cols + c];
  }
  of_lane[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
  for (int lane = 1; lane < kPartialLanes; ++lane) sum += of_lane[lane][threadIdx.x];
  y[c] = from_float<T>(sum);
}

// No data in y: not wanted.
template <class T>
void sum_partial(const char* name, Context& ctx, T* y, const float* partial, std::int64_t count, std::int64_t cols) {
  if (!y || cols == 0) return;
  launch(name, ctx, {unsigned((cols + 31) / 32), dim3(32, kPartialLanes)}, sum_partial_kernel<T>, y, partial, count,
         cols);
}

// ---- two outputs

// (y0, y1)_rc = f(x_rc, ...), f on floats to a float2. An output without data is not wanted. Floor: one read of each x,
// one write of each y; one pack of each a thread.
template <int N, class T, class F, class... In>
__global__ void map_two_kernel(Rows<T> y0, Rows<T> y1, std::int64_t rows, std::int64_t cols, F f, Rows<const In>... x) {
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

// Contiguous matrices of one shape become one row.
template <class... M>
void flatten(std::int64_t& rows, std::int64_t& cols, M&... matrices) {
  if (!((!matrices.data || matrices.stride == cols) && ...)) return;
  cols *= rows, rows = 1;
  ((matrices.rows = 1, matrices.cols = cols, matrices.stride = cols), ...);
}

template <class T, class F, class... In>
void map_two(const char* name, Context& ctx, Rows<T> y0, Rows<T> y1, std::int64_t rows, std::int64_t cols, const F& f,
             Rows<const In>... x) {
  if (rows * cols == 0 || (!y0.data && !y1.data)) return;
  flatten(rows, cols, y0, y1, x...);
  constexpr int N = kPackOf<T>;
  if (packs_if_any<N>(y0) && packs_if_any<N>(y1) && (packs<N>(x) && ...))
    launch(name, ctx, shape_for(rows * cols / N), map_two_kernel<N, T, F, In...>, y0, y1, rows, cols, f, x...);
  else
    launch(name, ctx, shape_for(rows * cols), map_two_kernel<1, T, F, In...>, y0, y1, rows, cols, f, x...);
}

}  // namespace cbq::cuda
