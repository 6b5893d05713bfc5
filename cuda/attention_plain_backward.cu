// Gradients of causal attention without tensor cores (formulas in attention.cuh, tiles in attention_plain.cuh): a block
// owns keys, or queries, as on tensor cores.
#include "cuda/attention_gradients.cuh"
#include "cuda/attention_plain.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

// One warp a query: rowsum(do o). Floor: o and do once.
template <class T>
__global__ void delta_kernel(float* delta, const __grid_constant__ AttentionBackward<T> a) {
  const std::int64_t i = (blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x) / 32;
  if (i >= a.q.batch * a.q.heads * a.q.tokens) return;
  const std::int64_t t = i % a.q.tokens, head = i / a.q.tokens;
  const T* o = head_rows(a.o, head / a.q.heads, head % a.q.heads).row(t);
  const T* d_o = head_rows(a.d_o, head / a.q.heads, head % a.q.heads).row(t);
  float sum = 0;
  for (int c = int(threadIdx.x) % 32; c < int(a.q.dim); c += 32) sum += to_float(d_o[c]) * to_float(o[c]);
  sum = warp_reduce(sum, Sum());
  if (threadIdx.x % 32 == 0) delta[i] = sum;
}

// s = q k^T and d = do v^T of one tile, or their transposes, become p and ds. Value i, j belongs to query(i, j) and
// key(i, j); lse and delta are those of the head.
template <class Tile, class Query, class Key>
__device__ void plain_score_gradients(PlainScores<Tile>& s, PlainScores<Tile>& d, float scale, const float* lse,
                                      const float* delta, int queries, int offset, const Query& query, const Key& key) {
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i)
#pragma unroll
    for (int j = 0; j < Tile::kPer; ++j) {
      const int t = query(i, j);
      const bool seen = t < queries && key(i, j) <= t + offset;
      s[i][j] = seen ? expf(s[i][j] * scale - lse[t]) : 0.0f;
      d[i][j] = seen ? s[i][j] * (d[i][j] - delta[t]) : 0.0f;
    }
}

// A block owns keys and walks over the queries that see them, of all query heads of its key head, in order.
template <class Tile, class T>
__global__ __launch_bounds__(kThreads,
                             2) void plain_key_gradients_kernel(const __grid_constant__ AttentionBackward<T> a,
                                                                const float* delta) {
  extern __shared__ __align__(16) float shared_floats[];
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, stride = stride_of(dim);
  const BlockPosition at = block_position(a.k.batch, a.k.heads);  // the first keys are seen by the most queries
  const int group = int(a.q.heads / a.k.heads), first_key = at.tile * Tile::kRows;
  const int first = max(0, first_key - offset) / Tile::kRows * Tile::kRows;
  const SharedRows k{shared_floats, stride}, v{k.data + Tile::kRows * stride, stride},
      q{v.data + Tile::kRows * stride, stride}, d_o{q.data + Tile::kRows * stride, stride};
  float* exchange = d_o.data + Tile::kRows * stride;

  PlainResult<Tile> dk, dv;
  dk.clear();
  dv.clear();
  load<Tile>(k, head_rows(a.k, at.batch, at.head), first_key, keys, dim);
  load<Tile>(v, head_rows(a.v, at.batch, at.head), first_key, keys, dim);
  for (int head = at.head * group; head < (at.head + 1) * group; ++head)
    for (int query = first; query < queries; query += Tile::kRows) {
      __syncthreads();
      load<Tile>(q, head_rows(a.q, at.batch, head), query, queries, dim);
      load<Tile>(d_o, head_rows(a.d_o, at.batch, head), query, queries, dim);
      __syncthreads();
      PlainScores<Tile> s, d;
      scores<Tile>(s, k, q);
      scores<Tile>(d, v, d_o);
      const std::int64_t statistics = (at.batch * a.q.heads + head) * queries;
      plain_score_gradients<Tile>(
          s, d, a.scale, a.lse + statistics, delta + statistics, queries, offset,
          [&](int, int j) { return query + tx + kSide * j; }, [&](int i, int) { return first_key + ty + kSide * i; });
      if (a.dv.data) dv.add_product(s, d_o, exchange);
      if (a.dk.data) dk.add_product(d, q, exchange);
    }
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) dk.scale(i, a.scale);
  if (a.dv.data) dv.store(head_rows(a.dv, at.batch, at.head), first_key, keys, dim);
  if (a.dk.data) dk.store(head_rows(a.dk, at.batch, at.head), first_key, keys, dim);
}

// A block owns queries and walks over the keys they see.
template <class Tile, class T>
__global__ __launch_bounds__(kThreads,
                             2) void plain_query_gradients_kernel(const __grid_constant__ AttentionBackward<T> a,
                                                                  const float* delta) {
  extern __shared__ __align__(16) float shared_floats[];
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, stride = stride_of(dim);
  BlockPosition at = block_position(a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kRows - 1) / Tile::kRows - 1 - at.tile;  // the last see the most keys
  const int key_head = at.head / int(a.q.heads / a.k.heads), query = at.tile * Tile::kRows;
  const SharedRows q{shared_floats, stride}, d_o{q.data + Tile::kRows * stride, stride},
      k{d_o.data + Tile::kRows * stride, stride}, v{k.data + Tile::kRows * stride, stride};
  float* exchange = v.data + Tile::kRows * stride;

  PlainResult<Tile> dq;
  dq.clear();
  load<Tile>(q, head_rows(a.q, at.batch, at.head), query, queries, dim);
  load<Tile>(d_o, head_rows(a.d_o, at.batch, at.head), query, queries, dim);
  const std::int64_t statistics = at.batch_head * queries;
  for (int key = 0; key < min(keys, query + Tile::kRows + offset); key += Tile::kRows) {
    __syncthreads();
    load<Tile>(k, head_rows(a.k, at.batch, key_head), key, keys, dim);
    load<Tile>(v, head_rows(a.v, at.batch, key_head), key, keys, dim);
    __syncthreads();
    PlainScores<Tile> s, d;
    scores<Tile>(s, q, k);
    scores<Tile>(d, d_o, v);
    plain_score_gradients<Tile>(
        s, d, a.scale, a.lse + statistics, delta + statistics, queries, offset,
        [&](int i, int) { return query + ty + kSide * i; }, [&](int, int j) { return key + tx + kSide * j; });
    dq.add_product(d, k, exchange);
  }
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) dq.scale(i, a.scale);
  dq.store(head_rows(a.dq, at.batch, at.head), query, queries, dim);
}

}  // namespace

template <class T>
void attention_backward_plain(Context& ctx, const AttentionBackward<T>& args) {
  const std::int64_t count = args.q.batch * args.q.heads * args.q.tokens;
  const Storage storage(ctx.allocator, count * std::int64_t(sizeof(float)));
  auto* delta = static_cast<float*>(storage.data());
  if (count > 0)
    launch("attention_backward, delta", ctx, {block_count("attention_backward", (count + 7) / 8, 1, 1), 256},
           delta_kernel<T>, delta, args);
  dispatch_plain(args.q.dim, [&]<class Tile>() {
    const float* of_query = delta;
    if (args.dk.data || args.dv.data)
      launch_plain<Tile>("attention_backward, dk and dv", ctx, plain_key_gradients_kernel<Tile, T>, 4, args.k.tokens,
                         args.k.batch, args.k.heads, args.k.dim, args, of_query);
    if (args.dq.data)
      launch_plain<Tile>("attention_backward, dq", ctx, plain_query_gradients_kernel<Tile, T>, 4, args.q.tokens,
                         args.q.batch, args.q.heads, args.q.dim, args, of_query);
  });
}

template void attention_backward_plain(Context&, const AttentionBackward<float>&);
template void attention_backward_plain(Context&, const AttentionBackward<bf16>&);

}  // namespace cbq::cuda
