// Causal attention, rung 1: as the formula reads, in three kernels with the scores in memory.
//
// Prediction at T 2048, H 64: below 1 TFLOP/s, 100 ms. A thread computes one score; neighbours read keys 16 KB apart,
// so a load of 2 bytes a thread takes 32 sectors. The scores are 1.07 GB that are written, read twice and written
// again, and grow with the square of T: at 8,192 tokens they would not fit beside a model.
#include "bench/ladder/attention.h"
#include "core/tensor.h"

namespace cbq::ladder {
namespace {

// s_ij = scale q_i k_j for j <= i. A thread a key, a block row a query.
__global__ void scores_kernel(AttentionArgs a, float* scores) {
  const int key = int(blockIdx.x * blockDim.x + threadIdx.x), query = int(blockIdx.y), head = int(blockIdx.z);
  if (key > query) return;
  const bf16 *q = a.q + a.at(head, query), *k = a.k + a.at(head, key);
  float sum = 0;
  for (int d = 0; d < kDim; ++d) sum += __bfloat162float(q[d]) * __bfloat162float(k[d]);
  scores[(std::int64_t(head) * a.tokens + query) * a.tokens + key] = a.scale * sum;
}

// A thread a query: its row of scores becomes a row of probabilities.
__global__ void softmax_kernel(AttentionArgs a, float* scores) {
  const int query = int(blockIdx.x * blockDim.x + threadIdx.x), head = int(blockIdx.y);
  const std::int64_t row = std::int64_t(head) * a.tokens + query;
  float* s = scores + row * a.tokens;
  float max = s[0], sum = 0;
  for (int key = 1; key <= query; ++key) max = fmaxf(max, s[key]);
  for (int key = 0; key <= query; ++key) sum += expf(s[key] - max);
  for (int key = 0; key <= query; ++key) s[key] = expf(s[key] - max) / sum;
  a.lse[row] = max + logf(sum);
}

// o_i = sum_j p_ij v_j. A thread a column, a block a query.
__global__ void values_kernel(AttentionArgs a, const float* scores) {
  const int d = int(threadIdx.x), query = int(blockIdx.x), head = int(blockIdx.y);
  const float* p = scores + (std::int64_t(head) * a.tokens + query) * a.tokens;
  float sum = 0;
  for (int key = 0; key <= query; ++key) sum += p[key] * __bfloat162float(a.v[a.at(head, key) + d]);
  a.o[a.at(head, query) + d] = __float2bfloat16(sum);
}

}  // namespace

void attention_scores(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  const AttentionArgs a = attention_args(o, lse, q, k, v, scale);
  const Storage storage(ctx.allocator, a.head_count() * a.tokens * a.tokens * std::int64_t(sizeof(float)));
  float* scores = static_cast<float*>(storage.data());
  const unsigned tokens = unsigned(a.tokens), heads = unsigned(a.head_count());
  cuda::launch("attention_scores", ctx, {dim3(tokens / 64, tokens, heads), 64}, scores_kernel, a, scores);
  cuda::launch("attention_softmax", ctx, {dim3(tokens / 64, heads), 64}, softmax_kernel, a, scores);
  cuda::launch("attention_values", ctx, {dim3(tokens, heads), kDim}, values_kernel, a, scores);
}

}  // namespace cbq::ladder
