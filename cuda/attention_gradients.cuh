// What the kernels of attention's gradients share (formulas in attention.cuh): the statistics of queries, and from
// scores to their gradients on accumulators.
#pragma once

#include "cuda/attention.cuh"

namespace cbq::cuda {

// lse in units of log 2, and delta; for queries behind the last, so that tiles need no end: infinity and 0, p = ds = 0.
using Statistics = float2;
constexpr int kStatisticsRows = 128;  // rows of a head are padded to a multiple of it

// (B, H, padded rows of a head)
inline std::int64_t padded_rows(const AttentionBackward<bf16>& args) {
  return (args.q.tokens + kStatisticsRows - 1) / kStatisticsRows * kStatisticsRows;
}
inline std::int64_t statistics_count(const AttentionBackward<bf16>& args) {
  return args.q.batch * args.q.heads * padded_rows(args);
}

// From o, do and lse.
void attention_statistics(Context& ctx, Statistics* statistics, const AttentionBackward<bf16>& args);

// The paths of the backward pass; attention.cu says which is taken.
template <class T>
void attention_backward_plain(Context& ctx, const AttentionBackward<T>& args);
void attention_backward_mma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics);
void attention_keys_wgmma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics);
void attention_queries_wgmma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics);

// s = x a^T becomes p; statistic(j, e) is that of value e of block j.
template <int kBlocks, class Statistic>
__device__ void probabilities(FragmentC (&s)[kBlocks], float scale_log2, const Statistic& statistic) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) s[j][e] = exp2_fast(fmaf(s[j][e], scale_log2, -statistic(j, e).x));
}

// d = y b^T becomes ds.
template <int kBlocks, class Statistic>
__device__ void score_gradients(FragmentC (&d)[kBlocks], const FragmentC (&p)[kBlocks], const Statistic& statistic) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) d[j][e] = p[j][e] * (d[j][e] - statistic(j, e).y);
}

// Zero where seen(j, e) is false: the query of value e of block j does not see its key.
template <int kBlocks, class Seen>
__device__ void mask(FragmentC (&p)[kBlocks], const Seen& seen) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e)
      if (!seen(j, e)) p[j][e] = 0;
}

}  // namespace cbq::cuda
