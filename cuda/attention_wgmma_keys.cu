// dk and dv of causal attention on wgmma (formulas in attention.cuh), bf16 with f32 sums: a block owns keys and walks
// over the queries that see them, of all query heads of its key head, in order. Four products, S^T = K Q^T,
// dP^T = V dO^T, dV = P^T dO and dK = dS^T Q; with keys as rows, P^T and dS^T feed the last two from registers.
#include "cuda/attention_gradients.cuh"
#include "cuda/attention_wgmma.cuh"

namespace cbq::cuda {
namespace {

// k and v stay, a stage is a tile of q, one of do and their statistics.
template <int kDim_, int kQueries_, int kStages_>
struct KeysTile {
  static constexpr int kDim = kDim_, kQueries = kQueries_, kStages = kStages_;
  using Keys = PanelTile<kBlockRows, kDim>;
  using Queries = PanelTile<kQueries, kDim>;
  static constexpr int kFixedTiles = 2, kFixedBytes = Keys::kBytes, kStageBytes = 2 * Queries::kBytes, kResults = 2;
  static constexpr int kExtraBytes = kQueries * int(sizeof(Statistics));
  static_assert(kStatisticsRows % kQueries == 0);
};

struct KeysMaps {
  CUtensorMap k, v, q, d_o, dk, dv;
};

struct KeysPiece {
  BlockPosition at;
  int key, first_query, steps;  // steps of each query head
};

template <class Tile>
__device__ KeysPiece keys_piece(const AttentionBackward<bf16>& a, unsigned piece) {
  const BlockPosition at = block_position(piece, a.k.batch, a.k.heads);  // the first keys are seen by the most queries
  const int queries = int(a.q.tokens), offset = int(a.k.tokens) - queries, key = at.tile * kBlockRows;
  const int first = max(0, key - offset) / Tile::kQueries * Tile::kQueries;
  return {at, key, first, (queries - first + Tile::kQueries - 1) / Tile::kQueries};
}

template <class Tile>
__device__ void copy_tiles(const AttentionBackward<bf16>& a, const KeysMaps& maps, const Statistics* statistics,
                           int padded, SharedParts<Tile>& shared, Rounds rounds) {
  using Keys = typename Tile::Keys;
  using Queries = typename Tile::Queries;
  auto& ring = shared.ring;
  const int group = int(a.q.heads / a.k.heads);
  for (; rounds.left(); ++rounds.round) {
    const KeysPiece p = keys_piece<Tile>(a, rounds.piece());
    const auto copy_fixed = [&](int i, const CUtensorMap& map) {
      shared.fixed[i].acquire(Tile::kFixedBytes);
      Keys::copy(shared.fixed_tile(i), map, p.key, p.at.head, p.at.batch, shared.fixed[i].full());
      shared.fixed[i].advance();
    };
    for (int head = p.at.head * group; head < (p.at.head + 1) * group; ++head) {
      const Statistics* of_queries = statistics + (p.at.batch * a.q.heads + head) * padded;
      for (int i = 0; i < p.steps; ++i) {
        const int query = p.first_query + i * Tile::kQueries;
        ring.acquire(Tile::kStageBytes + Tile::kExtraBytes);
        Queries::copy(shared.stage(ring), maps.q, query, head, p.at.batch, ring.full());
        Queries::copy(shared.stage(ring) + Queries::kBytes, maps.d_o, query, head, p.at.batch, ring.full());
        copy_bytes(shared.extra(ring), of_queries + query, Tile::kExtraBytes, ring.full());
        ring.advance();
        if (i > 0 || head > p.at.head * group) continue;
        copy_fixed(0, maps.k);
        copy_fixed(1, maps.v);
      }
    }
  }
}

template <class Tile>
__device__ void compute_tiles(const AttentionBackward<bf16>& a, const KeysMaps& maps, SharedParts<Tile>& shared,
                              Rounds rounds, int warpgroup) {
  constexpr int kDim = Tile::kDim, kQueryBlocks = Tile::kQueries / 8;
  using Keys = typename Tile::Keys;
  using Queries = typename Tile::Queries;
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * 16;  // the warp's first of a tile
  const int offset = int(a.k.tokens - a.q.tokens), group = int(a.q.heads / a.k.heads);
  const float scale_log2 = a.scale * kLog2E, one[2] = {1, 1}, scale[2] = {a.scale, a.scale};
  auto& ring = shared.ring;
#pragma unroll 1
  for (; rounds.left(); ++rounds.round) {
    const KeysPiece p = keys_piece<Tile>(a, rounds.piece());
    const int first_key = p.key + row;
    Accumulator<1, kDim / 8> dk, dv;
    clear<1>(dk);
    clear<1>(dv);
    shared.fixed[0].wait();
#pragma unroll 1
    for (int i = 0; i < group * p.steps; ++i) {
      const bool is_last = i + 1 == group * p.steps;
      // The last key that the first query of the tile sees.
      const int last_key = p.first_query + i % p.steps * Tile::kQueries + offset;
      ring.wait();
      if (last_key + Tile::kQueries - 1 >= p.key + 64 * warpgroup) {
        const std::uint32_t q = shared.stage(ring), d_o = q + Queries::kBytes;
        FragmentC s[kQueryBlocks], d[kQueryBlocks];
        Rounded<kQueryBlocks> of_p, of_ds;
        begin_products();
        multiply_transposed<Keys, Queries>(s, shared.fixed_tile(0), 64 * warpgroup, q);
        end_products();
        shared.fixed[1].wait();
        begin_products();
        multiply_transposed<Keys, Queries>(d, shared.fixed_tile(1), 64 * warpgroup, d_o);
        end_products();
        const auto* of_queries = static_cast<const float4*>(__cvta_shared_to_generic(shared.extra(ring))) + lane % 4;
        const auto statistic = [&](int j, int e) {
          const float4 two = of_queries[4 * j];
          return e % 2 ? Statistics{two.z, two.w} : Statistics{two.x, two.y};
        };
        await_products<1>(s);
        if (is_last) shared.fixed[0].release();
        probabilities(s, scale_log2, statistic);
        if (last_key < first_key + 15)
          mask(s, [&](int j, int e) {
            return first_key + lane / 4 + e / 2 * 8 <= last_key + lane % 4 * 2 + 8 * j + e % 2;
          });
        await_products<0>(d);
        if (is_last) shared.fixed[1].release();
        score_gradients(d, s, statistic);
        round_to(of_p, s);
        round_to(of_ds, d);
        begin_products();
        multiply<Queries>(dv[0], of_p, d_o);
        multiply<Queries>(dk[0], of_ds, q);
        end_products();
        await_products<0>(dv[0], dk[0]);
      } else if (is_last) {
        shared.fixed[0].release();
        shared.fixed[1].release();
      }
      ring.release_each();
      ring.advance();
    }
    shared.fixed[0].advance();
    shared.fixed[1].advance();
    ResultTile<kDim>::await_stores();
    if (a.dv.data) ResultTile<kDim>::store(maps.dv, shared.result(0), dv[0], one, first_key, p.at.head, p.at.batch);
    if (a.dk.data) ResultTile<kDim>::store(maps.dk, shared.result(1), dk[0], scale, first_key, p.at.head, p.at.batch);
  }
  ResultTile<kDim>::await_stores();
}

template <class Tile>
__global__ __launch_bounds__(kBlockThreads, 1) void wgmma_keys_kernel(const __grid_constant__ AttentionBackward<bf16> a,
                                                                      const __grid_constant__ KeysMaps maps,
                                                                      const Statistics* statistics, int padded,
                                                                      unsigned pieces) {
  await_previous();
#if CBQ_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  SharedParts<Tile> shared(shared_bytes);
  split_block([&] { copy_tiles<Tile>(a, maps, statistics, padded, shared, {pieces}); },
              [&](int warpgroup) { compute_tiles<Tile>(a, maps, shared, {pieces}, warpgroup); });
#endif
}

template <class Tile>
void run_keys(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  const auto map_if_wanted = [](const Heads<bf16>& x) {
    return x.data ? tensor_map(x, ResultTile<Tile::kDim>::kRows) : CUtensorMap{};
  };
  const KeysMaps maps{
      tensor_map(args.k, kBlockRows),       tensor_map(args.v, kBlockRows), tensor_map(args.q, Tile::kQueries),
      tensor_map(args.d_o, Tile::kQueries), map_if_wanted(args.dk),         map_if_wanted(args.dv)};
  launch_pieces<Tile>("attention_backward, dk and dv", ctx, wgmma_keys_kernel<Tile>, args.k, args, maps, statistics,
                      int(padded_rows(args)));
}

}  // namespace

void attention_keys_wgmma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  if (args.q.dim == 64) return run_keys<KeysTile<64, 128, 4>>(ctx, args, statistics);
  run_keys<KeysTile<128, 64, 3>>(ctx, args, statistics);
}

}  // namespace cbq::cuda
