// Gradients of causal attention on tensor cores (formulas in attention.cuh), bf16 with f32 sums and no atomics:
//   statistics: delta of each query, beside its lse, in one pass over o and do (attention_statistics.cu)
//   dk, dv:     a block owns keys and walks over the queries that see them, of all query heads of its key head
//   dq:         a block owns queries and walks over the keys they see
// The scores are computed twice, 7 products instead of 5, and every sum has a fixed order. Both walks are the same
// thing with the roles of (k, v) and (q, do) exchanged: a warp owns 16 rows of a pair (x, y), the columns of the
// pair (a, b) come in tiles, and from s = x a^T and y b^T the probabilities p and their gradients ds of the tile are
// made in registers, which then feed ds a (dk or dq) and p b (dv) without passing through shared memory.
#include "cuda/attention_gradients.cuh"

namespace cbq::cuda {
namespace {

// kWarps warps own 16 rows each and walk over tiles of kColumns columns, of which kPart at a time are in registers.
template <int kDim_, int kWarps_, int kColumns_, int kPart_, int kBlocksPerSm_>
struct BackwardTile {
  static constexpr int kPart = kPart_;
  static constexpr int kDim = kDim_, kWarps = kWarps_, kColumns = kColumns_, kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kThreads = 32 * kWarps, kRows = 16 * kWarps;
  static constexpr int kRowsBytes = kRows * kRowBytes<kDim>, kColumnsBytes = kColumns * kRowBytes<kDim>;
  static constexpr int kStatisticsBytes = kColumns * int(sizeof(Statistics));
  static constexpr int kStageBytes = 2 * kColumnsBytes + kStatisticsBytes;
  static constexpr int kSharedBytes = 2 * kRowsBytes + 2 * kStageBytes;
  static_assert(kStatisticsRows % kColumns == 0 && kStatisticsBytes % 256 == 0);
};

template <class Tile>
using Scores = Accumulator<1, Tile::kPart / 8>;

// p into s and ds into d, from x a^T and y b^T; x and a are this lane's addresses, y and b follow their tiles.
// statistic(j, e) is that of value e of block j.
template <class Tile, class Statistic>
__device__ void multiply_scores(Scores<Tile>& s, Scores<Tile>& d, std::uint32_t x, std::uint32_t a, float scale_log2,
                                const Statistic& statistic) {
  multiply_transposed<Tile::kDim>(s, x, a);
  multiply_transposed<Tile::kDim>(d, x + Tile::kRowsBytes, a + Tile::kColumnsBytes);
  probabilities(s[0], scale_log2, statistic);
  score_gradients(d[0], s[0], statistic);
}

// What kPart queries add to dk and dv of the warp's keys. `lead` is the last key that the first of them sees, counted
// from the warp's first.
template <class Tile>
__device__ void add_key_gradients(Accumulator<1, Tile::kDim / 8>& dk, Accumulator<1, Tile::kDim / 8>& dv,
                                  const AttentionBackward<bf16>& a, std::uint32_t x_warp, std::uint32_t a_tile,
                                  const unsigned char* statistics, int lead) {
  const int lane = int(threadIdx.x) % 32;
  Scores<Tile> s, d;
  multiply_scores<Tile>(s, d, x_warp, a_tile + lane_offset_b<Tile::kDim>(lane), a.scale * kLog2E, [&](int j, int e) {
    const float4 two = reinterpret_cast<const float4*>(statistics)[4 * j + lane % 4];
    return e % 2 ? Statistics{two.z, two.w} : Statistics{two.x, two.y};
  });
  if (lead < 15) {
    const auto seen = [&](int j, int e) { return lane / 4 + e / 2 * 8 <= lead + lane % 4 * 2 + 8 * j + e % 2; };
    mask(s[0], seen);
    mask(d[0], seen);
  }
  if (a.dv.data) multiply<Tile::kDim>(dv, s, a_tile + Tile::kColumnsBytes + lane_offset_a<Tile::kDim>(lane));
  if (a.dk.data) multiply<Tile::kDim>(dk, d, a_tile + lane_offset_a<Tile::kDim>(lane));
}

// Floor: bound by tensor cores, as the forward pass. 16 rows a warp: dk, dv and both score tiles fill the registers.
template <class Tile>
__global__ __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm) void key_gradients_kernel(
    const __grid_constant__ AttentionBackward<bf16> a, const Statistics* statistics, int padded) {
  await_previous();
  extern __shared__ __align__(1024) unsigned char shared[];
  constexpr int kDim = Tile::kDim, kColumns = Tile::kColumns, kThreads = Tile::kThreads;
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int group = int(a.q.heads / a.k.heads), lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const BlockPosition at = block_position(a.k.batch, a.k.heads);  // the first keys are seen by the most queries
  const int block_key = at.tile * Tile::kRows, warp_key = block_key + 16 * warp;

  const std::uint32_t x_tile = shared_address(shared), stages = x_tile + 2 * Tile::kRowsBytes;
  const std::uint32_t x_warp = x_tile + 16 * warp * kRowBytes<kDim> + lane_offset_a<kDim>(lane);
  // Step i: queries first + i % steps_of_head * kColumns on, of query head i / steps_of_head of the group.
  const int first = max(0, block_key - offset) / kColumns * kColumns;
  const int steps_of_head = (max(0, queries - first) + kColumns - 1) / kColumns, steps = group * steps_of_head;
  using Copier = TileCopier<kDim, kThreads>;
  Copier q, d_o;
  const Statistics* of_queries = nullptr;
  const auto copy_queries = [&](int i) {
    if (i % steps_of_head == 0) {
      const int head = at.head * group + i / steps_of_head;
      q = Copier(head_rows(a.q, at.batch, head), first, queries, dim);
      d_o = Copier(head_rows(a.d_o, at.batch, head), first, queries, dim);
      of_queries = statistics + (at.batch * a.q.heads + head) * padded + first + 2 * threadIdx.x;
    }
    const std::uint32_t stage = stages + i % 2 * Tile::kStageBytes;
    q.template copy<kColumns>(stage);
    d_o.template copy<kColumns>(stage + Tile::kColumnsBytes);
    if (threadIdx.x < Tile::kStatisticsBytes / 16)
      copy_async(stage + 2 * Tile::kColumnsBytes + 16 * threadIdx.x, of_queries, 16);
    of_queries += kColumns;
    commit_copies();
  };

  Accumulator<1, kDim / 8> dk, dv;
  clear(dk);
  clear(dv);
  Copier(head_rows(a.k, at.batch, at.head), block_key, keys, dim).template copy<Tile::kRows>(x_tile);
  Copier(head_rows(a.v, at.batch, at.head), block_key, keys, dim).template copy<Tile::kRows>(x_tile + Tile::kRowsBytes);
  if (steps > 0) copy_queries(0);
  for (int i = 0; i < steps; ++i) {
    wait_copies();
    __syncthreads();  // this tile is there, and nobody reads the other stage any more
    if (i + 1 < steps) copy_queries(i + 1);
    const int stage = i % 2 * Tile::kStageBytes;
#pragma unroll 1
    for (int c = 0; c < kColumns; c += Tile::kPart) {
      const int query = first + i % steps_of_head * kColumns + c;
      if (query + Tile::kPart - 1 + offset < warp_key) continue;  // none of them sees a key of the warp
      add_key_gradients<Tile>(dk, dv, a, x_warp, stages + stage + c * kRowBytes<kDim>,
                              shared + 2 * Tile::kRowsBytes + stage + 2 * Tile::kColumnsBytes + c * sizeof(Statistics),
                              query + offset - warp_key);
    }
  }
  const float one[1][2] = {{1, 1}}, scale[1][2] = {{a.scale, a.scale}};
  if (a.dv.data) store_rows(head_rows(a.dv, at.batch, at.head), dv, one, warp_key + lane / 4, keys, dim);
  if (a.dk.data) store_rows(head_rows(a.dk, at.batch, at.head), dk, scale, warp_key + lane / 4, keys, dim);
}

// Floor: bound by tensor cores, as the forward pass.
template <class Tile>
__global__ __launch_bounds__(Tile::kThreads, Tile::kBlocksPerSm) void query_gradients_kernel(
    const __grid_constant__ AttentionBackward<bf16> a, const Statistics* statistics, int padded) {
  await_previous();
  extern __shared__ __align__(1024) unsigned char shared[];
  constexpr int kDim = Tile::kDim, kColumns = Tile::kColumns, kThreads = Tile::kThreads;
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  BlockPosition at = block_position(a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kRows - 1) / Tile::kRows - 1 - at.tile;  // the last see the most keys
  const int key_head = at.head / int(a.q.heads / a.k.heads);
  const int block_query = at.tile * Tile::kRows, warp_query = block_query + 16 * warp;
  const int keys_seen = min(keys, block_query + Tile::kRows + offset);

  const std::uint32_t x_tile = shared_address(shared), stages = x_tile + 2 * Tile::kRowsBytes;
  const std::uint32_t x_warp = x_tile + 16 * warp * kRowBytes<kDim> + lane_offset_a<kDim>(lane);
  using Copier = TileCopier<kDim, kThreads>;
  Copier k(head_rows(a.k, at.batch, key_head), 0, keys, dim), v(head_rows(a.v, at.batch, key_head), 0, keys, dim);
  const auto copy_keys = [&](int key) {
    const std::uint32_t stage = stages + key / kColumns % 2 * Tile::kStageBytes;
    k.template copy<kColumns>(stage);
    v.template copy<kColumns>(stage + Tile::kColumnsBytes);
    commit_copies();
  };

  Accumulator<1, kDim / 8> dq;
  clear(dq);
  const Statistics* of_rows = statistics + at.batch_head * padded + warp_query + lane / 4;
  const Statistics of_row[2] = {of_rows[0], of_rows[8]};
  Copier(head_rows(a.q, at.batch, at.head), block_query, queries, dim).template copy<Tile::kRows>(x_tile);
  Copier(head_rows(a.d_o, at.batch, at.head), block_query, queries, dim)
      .template copy<Tile::kRows>(x_tile + Tile::kRowsBytes);
  copy_keys(0);
  for (int key = 0; key < keys_seen; key += kColumns) {
    wait_copies();
    __syncthreads();  // this tile is there, and nobody reads the other stage any more
    if (key + kColumns < keys_seen) copy_keys(key + kColumns);
    const std::uint32_t stage = stages + key / kColumns % 2 * Tile::kStageBytes;
#pragma unroll 1
    for (int c = 0; c < kColumns; c += Tile::kPart) {
      const int part = key + c;
      if (part > warp_query + 15 + offset) break;  // no query of the warp sees them
      const std::uint32_t a_tile = stage + c * kRowBytes<kDim>;
      Scores<Tile> s, d;
      multiply_scores<Tile>(s, d, x_warp, a_tile + lane_offset_b<kDim>(lane), a.scale * kLog2E,
                            [&](int, int e) { return of_row[e / 2]; });
      if (part + Tile::kPart - 1 > warp_query + offset)
        mask(d[0], [&](int j, int e) {
          return part + lane % 4 * 2 + 8 * j + e % 2 <= warp_query + lane / 4 + e / 2 * 8 + offset;
        });
      multiply<kDim>(dq, d, a_tile + lane_offset_a<kDim>(lane));
    }
  }
  const float scale[1][2] = {{a.scale, a.scale}};
  store_rows(head_rows(a.dq, at.batch, at.head), dq, scale, warp_query + lane / 4, queries, dim);
}

template <class Tile>
void run_key_gradients(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics, int padded) {
  if (!args.dk.data && !args.dv.data) return;
  const std::int64_t tiles = (args.k.tokens + Tile::kRows - 1) / Tile::kRows;
  const auto kernel = key_gradients_kernel<Tile>;
  launch_dependent(
      "attention_backward, dk and dv", ctx,
      {block_count("attention_backward", tiles, args.k.batch, args.k.heads), Tile::kThreads, Tile::kSharedBytes},
      kernel, args, statistics, padded);
}

template <class Tile>
void run_query_gradients(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics, int padded) {
  const std::int64_t tiles = (args.q.tokens + Tile::kRows - 1) / Tile::kRows;
  if (!args.dq.data || tiles == 0) return;
  const auto kernel = query_gradients_kernel<Tile>;
  launch_dependent(
      "attention_backward, dq", ctx,
      {block_count("attention_backward", tiles, args.q.batch, args.q.heads), Tile::kThreads, Tile::kSharedBytes},
      kernel, args, statistics, padded);
}

}  // namespace

void attention_backward_mma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  const int padded = int(padded_rows(args));
  dispatch_dim(args.q.dim, [&]<int kDim>() {
    run_key_gradients<BackwardTile<kDim, 4, 64, kDim == 128 ? 32 : 64, 2>>(ctx, args, statistics, padded);
    run_query_gradients<BackwardTile<kDim, 4, 64, 64, 2>>(ctx, args, statistics, padded);
  });
}

}  // namespace cbq::cuda
