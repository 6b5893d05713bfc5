// dq of causal attention on wgmma (formulas in attention.cuh): a block owns queries and walks over the keys they see.
// Three products, S = Q K^T, dP = dO V^T and dQ = dS K, of which the last takes dS from registers.
#include "cuda/attention_gradients.cuh"
#include "cuda/attention_wgmma.cuh"

namespace cbq::cuda {
namespace {

template <int kDim_, int kKeys_, int kStages_>
struct QueriesTile {
  static constexpr int kDim = kDim_, kKeys = kKeys_, kStages = kStages_, kWarpgroups = 2;
  static constexpr int kQueries = 64 * kWarpgroups, kConsumers = kWarpgroup * kWarpgroups;
  static constexpr int kThreads = kConsumers + kWarpgroup;
  using Queries = PanelTile<kQueries, kDim>;
  using Keys = PanelTile<kKeys, kDim>;
  static constexpr int kBarrierBytes = Ring<1>::kBytes + Ring<kStages>::kBytes;
  static constexpr int kSharedBytes = 1024 + 2 * Queries::kBytes + kStages * Keys::kBytes + kBarrierBytes;
  static_assert(kStatisticsRows % kQueries == 0);
};

struct QueriesMaps {
  CUtensorMap q, d_o, k, v;
};

// q and do of a piece, and a ring of tiles of k and v in turn.
template <class Tile>
struct QueriesShared {
  std::uint32_t q, d_o, keys;
  Ring<1> of_queries;
  Ring<Tile::kStages> ring;

  __device__ explicit QueriesShared(const unsigned char* shared) {
    q = (shared_address(shared) + 1023) / 1024 * 1024;
    d_o = q + Tile::Queries::kBytes;
    keys = d_o + Tile::Queries::kBytes;
    of_queries.barriers = keys + Tile::kStages * Tile::Keys::kBytes;
    ring.barriers = of_queries.barriers + Ring<1>::kBytes;
    if (threadIdx.x == 0) {
      of_queries.init(Tile::kConsumers / 32);
      ring.init(Tile::kConsumers / 32);
      publish_barriers();
    }
    __syncthreads();
  }
  __device__ std::uint32_t tile(const Ring<Tile::kStages>& at) const { return keys + at.stage * Tile::Keys::kBytes; }
};

struct QueriesPiece {
  BlockPosition at;
  int query, key_tiles;
};

template <class Tile>
__device__ QueriesPiece queries_piece(const AttentionBackward<bf16>& a, unsigned piece) {
  const int queries = int(a.q.tokens), keys = int(a.k.tokens);
  BlockPosition at = block_position(piece, a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kQueries - 1) / Tile::kQueries - 1 - at.tile;  // the last see the most keys
  const int query = at.tile * Tile::kQueries, keys_seen = min(keys, query + Tile::kQueries + keys - queries);
  return {at, query, (keys_seen + Tile::kKeys - 1) / Tile::kKeys};
}

template <class Tile>
__device__ void copy_tiles(const AttentionBackward<bf16>& a, const QueriesMaps& maps, QueriesShared<Tile>& shared,
                           Rounds rounds) {
  auto& ring = shared.ring;
  for (; rounds.left(); ++rounds.round) {
    const QueriesPiece p = queries_piece<Tile>(a, rounds.piece());
    const int key_head = p.at.head / int(a.q.heads / a.k.heads);
    shared.of_queries.acquire(2 * Tile::Queries::kBytes);
    Tile::Queries::copy(shared.q, maps.q, p.query, p.at.head, p.at.batch, shared.of_queries.full());
    Tile::Queries::copy(shared.d_o, maps.d_o, p.query, p.at.head, p.at.batch, shared.of_queries.full());
    shared.of_queries.advance();
    for (int i = 0; i < p.key_tiles; ++i)
      for (const CUtensorMap* map : {&maps.k, &maps.v}) {
        ring.acquire(Tile::Keys::kBytes);
        Tile::Keys::copy(shared.tile(ring), *map, i * Tile::kKeys, key_head, p.at.batch, ring.full());
        ring.advance();
      }
  }
}

template <class Tile>
__device__ void compute_tiles(const AttentionBackward<bf16>& a, const Statistics* statistics, int padded,
                              QueriesShared<Tile>& shared, Rounds rounds, int warpgroup) {
  constexpr int kDim = Tile::kDim, kKeyBlocks = Tile::kKeys / 8;
  using Queries = typename Tile::Queries;
  using Keys = typename Tile::Keys;
  const int warp = int(threadIdx.x) % kWarpgroup / 32, lane = int(threadIdx.x) % 32;
  const int offset = int(a.k.tokens - a.q.tokens);
  const float scale_log2 = a.scale * kLog2E;
  auto& ring = shared.ring;
  for (; rounds.left(); ++rounds.round) {
    const QueriesPiece p = queries_piece<Tile>(a, rounds.piece());
    const int warp_query = p.query + 64 * warpgroup + 16 * warp, query = warp_query + lane / 4;
    const Statistics* of_rows = statistics + p.at.batch_head * padded + query;
    const Statistics of_row[2] = {of_rows[0], of_rows[8]};
    const auto statistic = [&](int, int e) { return of_row[e / 2]; };
    Accumulator<1, kDim / 8> dq;
    clear<1>(dq);
    FragmentC s[kKeyBlocks], d[kKeyBlocks];
    Rounded<kKeyBlocks> rounded;
    shared.of_queries.wait();
#pragma unroll 1
    for (int i = 0; i < p.key_tiles; ++i) {
      ring.wait();
      begin_products();
      multiply_transposed<Queries, Keys>(s, shared.q, 64 * warpgroup, shared.tile(ring));
      end_products();
      Ring<Tile::kStages> of_v = ring;
      of_v.advance();
      of_v.wait();
      begin_products();
      multiply_transposed<Queries, Keys>(d, shared.d_o, 64 * warpgroup, shared.tile(of_v));
      end_products();
      await_products<1>(s);
      probabilities(s, scale_log2, statistic);
      await_products<0>(d);
      of_v.release();
      if (i + 1 == p.key_tiles) shared.of_queries.release();
      score_gradients(d, s, statistic);
      const int key = i * Tile::kKeys;
      if (key + Tile::kKeys - 1 > warp_query + offset)
        mask(d, [&](int j, int e) { return key + lane % 4 * 2 + 8 * j + e % 2 <= query + e / 2 * 8 + offset; });
      round_to(rounded, d);
      begin_products();
      multiply<Keys>(dq[0], rounded, shared.tile(ring));
      end_products();
      await_products<0>(dq[0]);
      ring.release();
      of_v.advance();
      ring = of_v;
    }
    shared.of_queries.advance();
    const float scale[1][2] = {{a.scale, a.scale}};
    store_rows<1>(head_rows(a.dq, p.at.batch, p.at.head), dq, scale, query, int(a.q.tokens), int(a.q.dim));
  }
}

template <class Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             1) void wgmma_queries_kernel(const __grid_constant__ AttentionBackward<bf16> a,
                                                          const __grid_constant__ QueriesMaps maps,
                                                          const Statistics* statistics, int padded, unsigned pieces) {
  await_previous();
#if CBQ_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  QueriesShared<Tile> shared(shared_bytes);
  const Rounds rounds{pieces};
  const int warpgroup = warpgroup_index();
  if (warpgroup == Tile::kWarpgroups) {
    shrink_registers<24>();
    if (threadIdx.x == Tile::kConsumers) copy_tiles<Tile>(a, maps, shared, rounds);
  } else {
    grow_registers<240>();
    compute_tiles<Tile>(a, statistics, padded, shared, rounds, warpgroup);
  }
#endif
}

template <class Tile>
void run_queries(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  const std::int64_t tiles = (args.q.tokens + Tile::kQueries - 1) / Tile::kQueries;
  const unsigned pieces = block_count("attention_backward", tiles, args.q.batch, args.q.heads);
  const QueriesMaps maps{tensor_map(args.q, Tile::kQueries), tensor_map(args.d_o, Tile::kQueries),
                         tensor_map(args.k, Tile::kKeys), tensor_map(args.v, Tile::kKeys)};
  const unsigned blocks = std::min(pieces, unsigned(cuda_context(ctx).multiprocessors));
  launch_dependent("attention_backward, dq", ctx, {blocks, Tile::kThreads, Tile::kSharedBytes},
                   wgmma_queries_kernel<Tile>, args, maps, statistics, int(padded_rows(args)), pieces);
}

}  // namespace

void attention_queries_wgmma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  if (args.q.dim == 64) return run_queries<QueriesTile<64, 128, 4>>(ctx, args, statistics);
  run_queries<QueriesTile<128, 128, 5>>(ctx, args, statistics);
}

}  // namespace cbq::cuda
