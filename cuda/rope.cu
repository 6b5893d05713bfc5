// Rotary position embedding, Su et al. 2021, eq. 34, on the pairs (x_i, x_{i+D/2}) of each head:
//   y_i = x_i cos - x_{i+D/2} sin,  y_{i+D/2} = x_{i+D/2} cos + x_i sin;  the inverse has -sin for sin.
#include <algorithm>

#include "cuda/value.cuh"

namespace cbq::cuda {
namespace {

template <class T>
__device__ T* head_at(const Heads<T>& x, std::int64_t b, std::int64_t t, unsigned h) {
  return x.data + b * x.batch_stride + t * x.token_stride + h * x.head_stride;
}

// Floor: x read, y written; cos and sin of a token come from the L1 cache for all heads but the first. A row of threads
// takes the heads of one token, N pairs a thread: both halves of a pair are in one thread, so y may be x. Tokens and
// batches come from the grid and cost no division.
template <int N, class T>
__global__ void rope_kernel(Heads<T> y, Heads<const T> x, Rows<const float> cos, Rows<const float> sin, float sign) {
  await_previous();
  const std::int64_t half = x.dim / 2;
  const unsigned per_head = unsigned(half / N), count = unsigned(x.heads) * per_head;
  for (std::int64_t b = blockIdx.y; b < x.batch; b += gridDim.y)
    for (std::int64_t t = blockIdx.x * std::int64_t(blockDim.y) + threadIdx.y; t < x.tokens;
         t += std::int64_t(gridDim.x) * blockDim.y)
      for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        const unsigned h = i / per_head, first = (i - h * per_head) * N;
        const T* in = head_at(x, b, t, h) + first;
        T* out = head_at(y, b, t, h) + first;
        const Pack<float, N> low = load_floats<N>(in), high = load_floats<N>(in + half);
        const Pack<float, N> c = load_pack<N>(cos.data + t * cos.stride + first),
                             s = load_pack<N>(sin.data + t * sin.stride + first);
        Pack<T, N> to_low, to_high;
#pragma unroll
        for (int k = 0; k < N; ++k) {
          const float u = low.v[k], v = high.v[k], turn = sign * s.v[k];
          to_low.v[k] = from_float<T>(u * c.v[k] - v * turn);
          to_high.v[k] = from_float<T>(v * c.v[k] + u * turn);
        }
        store_pack(out, to_low);
        store_pack(out + half, to_high);
      }
}

// Whether both halves of every head can be walked in packs of N elements.
template <int N, class T>
bool packs_halves(const Heads<T>& x) {
  const auto aligned = [](std::int64_t size, std::int64_t stride) { return size == 1 || stride % N == 0; };
  return reinterpret_cast<std::uintptr_t>(x.data) % (N * sizeof(T)) == 0 && x.dim / 2 % N == 0 &&
         aligned(x.batch, x.batch_stride) && aligned(x.tokens, x.token_stride) && aligned(x.heads, x.head_stride);
}

template <int N, class T>
void run(Context& ctx, const Heads<T>& y, const Heads<const T>& x, Rows<const float> cos, Rows<const float> sin,
         float sign) {
  constexpr std::int64_t kThreads = 256;
  const std::int64_t count = x.heads * (x.dim / 2 / N);
  require(count <= INT32_MAX, "rope: at most 2^31 - 1 pairs a token, got ", count);
  const std::int64_t across = std::min(kThreads, (count + 31) / 32 * 32), tokens_per_block = kThreads / across;
  const std::int64_t along = std::min<std::int64_t>((x.tokens + tokens_per_block - 1) / tokens_per_block, INT32_MAX);
  const LaunchShape shape = {dim3(unsigned(along), unsigned(std::min<std::int64_t>(x.batch, 65535))),
                             dim3(unsigned(across), unsigned(tokens_per_block))};
  launch_dependent("rope", ctx, shape, rope_kernel<N, T>, y, x, cos, sin, sign);
}

}  // namespace

void rope(Context& ctx, View y, View x, View cos, View sin, Rotation rotation) {
  dispatch_value(x.dtype, "rope", [&]<class T>() {
    const Heads<T> to = heads<T>(y);
    const Heads<const T> from = heads<const T>(x);
    if (x.count() == 0 || from.dim < 2) return;
    const Rows<const float> cosines = rows<const float>(cos), sines = rows<const float>(sin);
    const float sign = rotation == Rotation::forward ? 1.0f : -1.0f;
    constexpr int N = kPackOf<T>;
    if (packs_halves<N>(to) && packs_halves<N>(from) && packs<N>(cosines) && packs<N>(sines))
      run<N, T>(ctx, to, from, cosines, sines, sign);
    else
      run<1, T>(ctx, to, from, cosines, sines, sign);
  });
}

}  // namespace cbq::cuda
