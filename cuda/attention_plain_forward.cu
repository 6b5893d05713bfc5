// Causal attention without tensor cores (formulas in attention.cuh, tiles in attention_plain.cuh).
#include "cuda/attention_plain.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

// Over the 16 threads of a row.
template <class Op>
__device__ float row_reduce(float value, Op op) {
#pragma unroll
  for (int offset = kSide / 2; offset > 0; offset /= 2) value = op(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

// Scores of the tile's row i to exp(s - max over all tiles so far); `sum` and `o` are brought to that max.
template <class Tile>
__device__ void softmax_row(PlainScores<Tile>& s, int i, float& max, float& sum, PlainResult<Tile>& o) {
  float largest = max;
#pragma unroll
  for (int j = 0; j < Tile::kPer; ++j) largest = fmaxf(largest, s[i][j]);
  largest = row_reduce(largest, Max());
  const float decay = expf(max - largest);
  max = largest;
  float added = 0;
#pragma unroll
  for (int j = 0; j < Tile::kPer; ++j) added += s[i][j] = expf(s[i][j] - largest);
  sum = sum * decay + row_reduce(added, Sum());
  o.scale(i, decay);
}

// Floor: 4 Tq Tk D / 2 FLOP a head in f32.
template <class Tile, class T>
__global__ __launch_bounds__(kThreads, 2) void plain_forward_kernel(const __grid_constant__ AttentionForward<T> a) {
  extern __shared__ __align__(16) float shared_floats[];
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int ty = int(threadIdx.x) / kSide, tx = int(threadIdx.x) % kSide, stride = stride_of(dim);
  BlockPosition at = block_position(a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kRows - 1) / Tile::kRows - 1 - at.tile;  // the last see the most keys
  const int key_head = at.head / int(a.q.heads / a.k.heads), query = at.tile * Tile::kRows;
  const SharedRows q{shared_floats, stride}, k{q.data + Tile::kRows * stride, stride},
      v{k.data + Tile::kRows * stride, stride};
  float* exchange = v.data + Tile::kRows * stride;

  PlainResult<Tile> o;
  o.clear();
  float max[Tile::kPer], sum[Tile::kPer];
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) max[i] = -kInfinity, sum[i] = 0;
  load<Tile>(q, head_rows(a.q, at.batch, at.head), query, queries, dim);
  for (int key = 0; key < min(keys, query + Tile::kRows + offset); key += Tile::kRows) {
    __syncthreads();
    load<Tile>(k, head_rows(a.k, at.batch, key_head), key, keys, dim);
    load<Tile>(v, head_rows(a.v, at.batch, key_head), key, keys, dim);
    __syncthreads();
    PlainScores<Tile> s;
    scores<Tile>(s, q, k);
#pragma unroll
    for (int i = 0; i < Tile::kPer; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kPer; ++j)
        s[i][j] = key + tx + kSide * j <= query + ty + kSide * i + offset ? s[i][j] * a.scale : -kInfinity;
      softmax_row<Tile>(s, i, max[i], sum[i], o);
    }
    o.add_product(s, v, exchange);
  }
#pragma unroll
  for (int i = 0; i < Tile::kPer; ++i) {
    const int row = query + ty + kSide * i;
    o.scale(i, 1 / sum[i]);
    if (a.lse && tx == 0 && row < queries) a.lse[at.batch_head * queries + row] = max[i] + logf(sum[i]);
  }
  o.store(head_rows(a.o, at.batch, at.head), query, queries, dim);
}

}  // namespace

template <class T>
void attention_forward_plain(Context& ctx, const AttentionForward<T>& args) {
  dispatch_plain(args.q.dim, [&]<class Tile>() {
    launch_plain<Tile>("attention_forward", ctx, plain_forward_kernel<Tile, T>, 3, args.q.tokens, args.q.batch,
                       args.q.heads, args.q.dim, args);
  });
}

template void attention_forward_plain(Context&, const AttentionForward<float>&);
template void attention_forward_plain(Context&, const AttentionForward<bf16>&);

}  // namespace cbq::cuda
