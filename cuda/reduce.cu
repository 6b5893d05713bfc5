// Sums, ranges, order statistics and counts over a matrix.
//
//   column_sum:       y_c = sum_r x_rc
//   column_range:     low_c, high_c = min and max over r of x_rc, NaN passed over; no rows at all give (inf, -inf)
//   mean_forward:     y = sum of all elements / count;  mean_backward: dx = dy / count
//   argmax_rows:      the lowest index of the largest element; NaN is never the largest, and a row of NaN gives 0
//   sort_magnitudes:  |x| in ascending order of its bits, so that NaN comes last
//   count_non_finite: how many elements are NaN or infinite
#include <cub/device/device_radix_sort.cuh>
#include <limits>

#include "cuda/map.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// ---- over rows

struct SumOf {
  using Value = float;
  static __device__ Value none() { return 0; }
  template <class In>
  static __device__ Value of(In x) {
    return to_float(x);
  }
  static __device__ Value both(Value a, Value b) { return a + b; }
};

struct Range {
  float low, high;
};

struct RangeOf {
  using Value = Range;
  static __device__ Value none() { return {kInfinity, -kInfinity}; }
  static __device__ Value of(Range x) { return x; }
  template <class In>
  static __device__ Value of(In x) {
    return {to_float(x), to_float(x)};
  }
  // a is never NaN, because it starts as none().
  static __device__ Value both(Value a, Value b) {
    return {b.low < a.low ? b.low : a.low, b.high > a.high ? b.high : a.high};
  }
};

// What a block takes: a strip of one pack of columns a lane, kRowsPerBlock rows shared out to its warps.
constexpr int kLanes = 32, kWarps = 8;
constexpr std::int64_t kRowsPerBlock = 128;

// Floor: one read of x. A warp reads 512 neighbouring bytes of a row, eight rows at a time; the block then puts its
// warps' results together, so that what a second kernel reads again is at most 4/128 of x.
template <int N, class Op, class In, class Write>
__global__ void reduce_columns_kernel(Rows<const In> x, std::int64_t strips, Write write) {
  using Value = typename Op::Value;
  __shared__ Value of_warp[kWarps][kLanes * N];
  const int lane = threadIdx.x, warp = threadIdx.y;
  const std::int64_t chunk = blockIdx.x / strips, strip = (blockIdx.x - chunk * strips) * (kLanes * N),
                     first = chunk * kRowsPerBlock,
                     last = first + kRowsPerBlock < x.rows ? first + kRowsPerBlock : x.rows, c = strip + lane * N;
  Value value[N];
#pragma unroll
  for (int k = 0; k < N; ++k) value[k] = Op::none();
  if (c < x.cols) {
#pragma unroll 8
    for (std::int64_t r = first + warp; r < last; r += kWarps) {
      const Pack<In, N> in = load_pack<N>(x.data + r * x.stride + c);
#pragma unroll
      for (int k = 0; k < N; ++k) value[k] = Op::both(value[k], Op::of(in.v[k]));
    }
  }
#pragma unroll
  for (int k = 0; k < N; ++k) of_warp[warp][lane * N + k] = value[k];
  __syncthreads();
  for (int j = warp * kLanes + lane; j < kLanes * N; j += kWarps * kLanes) {
    Value total = of_warp[0][j];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) total = Op::both(total, of_warp[w][j]);
    if (strip + j < x.cols) write(chunk, strip + j, total);
  }
}

template <class Op, class In, class Write>
void launch_columns(const char* name, Context& ctx, Rows<const In> x, std::int64_t chunks, const Write& write) {
  constexpr int N = kPackOf<In>;
  const dim3 threads(kLanes, kWarps);
  const std::int64_t strips = (x.cols + kLanes * N - 1) / (kLanes * N), narrow_strips = (x.cols + kLanes - 1) / kLanes;
  if (packs<N>(x))
    launch(name, ctx, {unsigned(chunks * strips), threads}, reduce_columns_kernel<N, Op, In, Write>, x, strips, write);
  else
    launch(name, ctx, {unsigned(chunks * narrow_strips), threads}, reduce_columns_kernel<1, Op, In, Write>, x,
           narrow_strips, write);
}

template <class Value>
struct WritePartial {
  Value* partial;
  std::int64_t cols;
  __device__ void operator()(std::int64_t chunk, std::int64_t c, Value value) const {
    partial[chunk * cols + c] = value;
  }
};

// write(0, c, Op over all rows of column c), chunk by chunk and then over the chunks in the same way.
template <class Op, class In, class Write>
void reduce_columns(const char* name, Context& ctx, Rows<const In> x, const Write& write) {
  using Value = typename Op::Value;
  if (x.cols == 0) return;
  if (x.rows <= kRowsPerBlock) return launch_columns<Op>(name, ctx, x, 1, write);
  const std::int64_t chunks = (x.rows + kRowsPerBlock - 1) / kRowsPerBlock;
  const Storage storage(ctx.allocator, chunks * x.cols * std::int64_t(sizeof(Value)));
  Value* partial = static_cast<Value*>(storage.data());
  launch_columns<Op>(name, ctx, x, chunks, WritePartial<Value>{partial, x.cols});
  reduce_columns<Op>(name, ctx, Rows<const Value>{partial, chunks, x.cols, x.cols}, write);
}

template <class T>
struct WriteSum {
  T* y;
  __device__ void operator()(std::int64_t, std::int64_t c, float sum) const { y[c] = from_float<T>(sum); }
};

template <class T>
struct WriteRange {
  T *low, *high;  // either may be null
  __device__ void operator()(std::int64_t, std::int64_t c, Range range) const {
    if (low) low[c] = from_float<T>(range.low);
    if (high) high[c] = from_float<T>(range.high);
  }
};

// ---- over all elements

// The sum of f over pack i of x: 16 bytes a term, so that sum_all keeps enough of them in flight.
template <int N, class T, class F>
struct PackTerm {
  Rows<const T> x;
  F f;
  __device__ float operator()(std::int64_t i) const {
    const std::int64_t per_row = x.cols / N, r = x.rows == 1 ? 0 : i / per_row, c = (i - r * per_row) * N;
    const Pack<T, N> in = load_pack<N>(x.data + r * x.stride + c);
    float sum = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) sum += f(to_float(in.v[k]));
    return sum;
  }
};

// finish(sum of f(x_rc) over all elements). Floor: one read of x.
template <class F, class Finish>
void sum_of(const char* name, Context& ctx, const View& x, const F& f, const Finish& finish) {
  dispatch_value(x.dtype, name, [&]<class T>() {
    Rows<const T> from = rows<const T>(x);
    if (from.stride == from.cols) from = {from.data, 1, x.count(), x.count()};
    constexpr int N = kPackOf<T>;
    if (packs<N>(from))
      sum_all(name, ctx, x.count() / N, PackTerm<N, T, F>{from, f}, finish);
    else
      sum_all(name, ctx, x.count(), PackTerm<1, T, F>{from, f}, finish);
  });
}

// ---- over columns

// Orders as the values do, and among equal values a lower index is larger. Below that of every number: 0.
__device__ unsigned long long rank_of(float value, std::int32_t index) {
  const unsigned bits = __float_as_uint(value == 0 ? 0.f : value);  // one zero
  const unsigned ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (static_cast<unsigned long long>(ascending) << 32) | ~unsigned(index);
}

struct Larger {
  __device__ unsigned long long operator()(unsigned long long a, unsigned long long b) const { return a > b ? a : b; }
};

constexpr int kArgmaxThreads = 256;

// Floor: one read of x. One block a row, one pack a thread at a time; a pack is looked into only if its maximum is
// larger than all before.
template <int N, class T>
__global__ void argmax_kernel(std::int32_t* index, Rows<const T> x) {
  const T* row = x.data + blockIdx.x * x.stride;
  float best = -kInfinity;
  std::int32_t at = -1;
#pragma unroll 4
  for (std::int64_t c = threadIdx.x * N; c < x.cols; c += kArgmaxThreads * N) {
    const Pack<T, N> in = load_pack<N>(row + c);
    float largest = to_float(in.v[0]);  // NaN only if all are
#pragma unroll
    for (int k = 1; k < N; ++k) largest = fmaxf(largest, to_float(in.v[k]));
    if (largest > best || (at < 0 && largest == best)) {
      best = largest;
#pragma unroll
      for (int k = N - 1; k >= 0; --k)
        if (to_float(in.v[k]) == largest) at = std::int32_t(c + k);
    }
  }
  const unsigned long long winner = block_reduce<kArgmaxThreads>(at < 0 ? 0ull : rank_of(best, at), Larger());
  if (threadIdx.x == 0) index[blockIdx.x] = winner == 0 ? 0 : std::int32_t(~unsigned(winner));
}

}  // namespace

void column_sum(Context& ctx, View y, View x) {
  if (!y) return;
  dispatch_value(x.dtype, "column_sum", [&]<class T>() {
    reduce_columns<SumOf>("column_sum", ctx, rows<const T>(x), WriteSum<T>{elements<T>(y)});
  });
}

void column_range(Context& ctx, View low, View high, View x) {
  if (!low && !high) return;
  dispatch_value(x.dtype, "column_range", [&]<class T>() {
    reduce_columns<RangeOf>("column_range", ctx, rows<const T>(x), WriteRange<T>{elements<T>(low), elements<T>(high)});
  });
}

void mean_forward(Context& ctx, View y, View x) {
  require(y.dtype == DType::f32, "mean_forward: the mean is f32, got ", y.dtype);
  float* to = elements<float>(y);
  const double count = double(x.count());
  const auto itself = [] __device__(float v) { return v; };
  sum_of("mean_forward", ctx, x, itself, [to, count] __device__(double sum) { *to = float(sum / count); });
}

void mean_backward(Context& ctx, View dx, View dy) {
  require(dy.dtype == DType::f32, "mean_backward: the gradient of the mean is f32, got ", dy.dtype);
  const float *from = elements<const float>(dy), count = float(dx.count());
  const auto share = [from, count] __device__() { return *from / count; };  // read and divided once a pack
  dispatch_value(dx.dtype, "mean_backward", [&]<class T>() { map("mean_backward", ctx, rows<T>(dx), share); });
}

void argmax_rows(Context& ctx, View index, View x) {
  if (x.rows() == 0) return;
  dispatch_value(x.dtype, "argmax_rows", [&]<class T>() {
    const Rows<const T> from = rows<const T>(x);
    constexpr int N = kPackOf<T>;
    launch("argmax_rows", ctx, {unsigned(from.rows), kArgmaxThreads},
           packs<N>(from) ? argmax_kernel<N, T> : argmax_kernel<1, T>, elements<std::int32_t>(index), from);
  });
}

// The passes of the sort cost several times the read and the write of x.
void sort_magnitudes(Context& ctx, View y, View x) {
  const std::int64_t count = x.count();
  if (count == 0) return;
  const auto magnitude = [] __device__(float v) { return __uint_as_float(__float_as_uint(v) & 0x7fffffffu); };
  dispatch_value(x.dtype, "sort_magnitudes", [&]<class T>() {
    const Storage unsorted(ctx.allocator, count * std::int64_t(sizeof(T)));
    T* keys = static_cast<T*>(unsorted.data());
    map("sort_magnitudes", ctx, Rows<T>{keys, x.rows(), x.cols(), x.cols()}, magnitude, rows<const T>(x));
    constexpr int kBits = 8 * int(sizeof(T)) - 1;  // no sign
    const auto sort = [&](void* scratch, std::size_t& bytes) {
      CUDA_CHECK(cub::DeviceRadixSort::SortKeys(scratch, bytes, keys, elements<T>(y), count, 0, kBits,
                                                cuda_context(ctx).stream.get()));
    };
    std::size_t bytes = 0;
    sort(nullptr, bytes);
    const Storage scratch(ctx.allocator, std::int64_t(bytes));
    sort(scratch.data(), bytes);
    launched("sort_magnitudes", ctx);
  });
}

void count_non_finite(Context& ctx, View count, View x) {
  std::int32_t* to = elements<std::int32_t>(count);
  // False for NaN. A thread's own count stays far below 2^24, where float would stop to count.
  const auto is_not = [] __device__(float v) { return fabsf(v) < kInfinity ? 0.f : 1.f; };
  sum_of("count_non_finite", ctx, x, is_not, [to] __device__(double found) {
    constexpr double kMost = 2147483647;
    *to = std::int32_t(found < kMost ? found : kMost);
  });
}

void count_different(Context& ctx, View count, View a, View b) {
  std::int32_t* to = elements<std::int32_t>(count);
  const std::uint8_t *x = elements<const std::uint8_t>(a), *y = elements<const std::uint8_t>(b);
  const auto differs = [x, y] __device__(std::int64_t i) { return x[i] == y[i] ? 0.f : 1.f; };
  sum_all("count_different", ctx, a.count(), differs, [to] __device__(double found) {
    constexpr double kMost = 2147483647;
    *to = std::int32_t(found < kMost ? found : kMost);
  });
}

}  // namespace cbq::cuda
