#include "cuda/attention_gradients.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

// One warp a query. Floor: o and do once.
__global__ void statistics_kernel(Statistics* statistics, const __grid_constant__ AttentionBackward<bf16> a,
                                  std::int64_t padded) {
  await_previous();
  const std::int64_t count = a.q.batch * a.q.heads * padded;
  const std::int64_t i = (blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x) / 32;
  if (i >= count) return;
  const std::int64_t t = i % padded, head = i / padded;
  const int lane = int(threadIdx.x) % 32, dim = int(a.q.dim);
  if (t >= a.q.tokens) {
    if (lane == 0) statistics[i] = {kInfinity, 0};
    return;
  }
  const bf16* o = head_rows(a.o, head / a.q.heads, head % a.q.heads).row(t);
  const bf16* d_o = head_rows(a.d_o, head / a.q.heads, head % a.q.heads).row(t);
  float delta = 0;
  for (int c = 4 * lane; c < dim; c += 128) {
    const Pack<bf16, 4> x = load_pack<4>(o + c), y = load_pack<4>(d_o + c);
#pragma unroll
    for (int e = 0; e < 4; ++e) delta += to_float(x.v[e]) * to_float(y.v[e]);
  }
  delta = warp_reduce(delta, Sum());
  if (lane == 0) statistics[i] = {a.lse[head * a.q.tokens + t] * kLog2E, delta};
}

}  // namespace

void attention_statistics(Context& ctx, Statistics* statistics, const AttentionBackward<bf16>& args) {
  const std::int64_t count = statistics_count(args);
  if (count > 0)
    launch_dependent("attention_backward, delta", ctx, {block_count("attention_backward", (count + 7) / 8, 1, 1), 256},
                     statistics_kernel, statistics, args, padded_rows(args));
}

}  // namespace cbq::cuda
