#include "cuda/attention_gradients.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

// kLanes lanes a query, so that a load is 16 bytes; kLoads queries a lane, so that several are under way.
constexpr int kPack = 8, kLanes = 16, kLoads = 4, kThreads = 256;
constexpr int kQueriesAtOnce = 32 / kLanes, kQueriesOfWarp = kQueriesAtOnce * kLoads;
constexpr int kQueriesOfBlock = kThreads / 32 * kQueriesOfWarp;
static_assert(kStatisticsRows % kQueriesOfBlock == 0 && kLanes * kPack >= 128);

// Floor: o and do once.
__global__ void __launch_bounds__(kThreads)
    statistics_kernel(Statistics* statistics, const __grid_constant__ AttentionBackward<bf16> a, int padded) {
  await_previous();
  const int blocks_of_head = padded / kQueriesOfBlock, head = int(blockIdx.x) / blocks_of_head;
  const int lane = int(threadIdx.x) % kLanes, column = kPack * lane;
  const int first = int(blockIdx.x) % blocks_of_head * kQueriesOfBlock + int(threadIdx.x) / 32 * kQueriesOfWarp +
                    int(threadIdx.x) % 32 / kLanes;
  const int queries = int(a.q.tokens), heads = int(a.q.heads);
  const auto o = head_rows(a.o, head / heads, head % heads), d_o = head_rows(a.d_o, head / heads, head % heads);
  Pack<bf16, kPack> x[kLoads] = {}, y[kLoads] = {};
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int query = first + i * kQueriesAtOnce;
    if (query < queries && column < int(a.q.dim))
      x[i] = load_pack<kPack>(o.row(query) + column), y[i] = load_pack<kPack>(d_o.row(query) + column);
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int query = first + i * kQueriesAtOnce;
    const Pack<float, kPack> of_o = to_floats(x[i]), of_d_o = to_floats(y[i]);
    float delta = 0;
#pragma unroll
    for (int e = 0; e < kPack; ++e) delta = fmaf(of_o.v[e], of_d_o.v[e], delta);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) delta += __shfl_xor_sync(kFullWarp, delta, step);
    if (lane == 0)
      statistics[std::int64_t(head) * padded + query] =
          query < queries ? Statistics{a.lse[std::int64_t(head) * queries + query] * kLog2E, delta}
                          : Statistics{kInfinity, 0};
  }
}

}  // namespace

void attention_statistics(Context& ctx, Statistics* statistics, const AttentionBackward<bf16>& args) {
  const std::int64_t count = statistics_count(args);
  if (count > 0)
    launch_dependent("attention_backward, delta", ctx,
                     {block_count("attention_backward", count / kQueriesOfBlock, 1, 1), kThreads}, statistics_kernel,
                     statistics, args, int(padded_rows(args)));
}

}  // namespace cbq::cuda
