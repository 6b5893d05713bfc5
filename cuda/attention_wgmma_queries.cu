// dq of causal attention on wgmma (formulas in attention.cuh), bf16 with f32 sums: a block owns queries and walks over
// the keys they see. Three products, S = Q K^T, dP = dO V^T and dQ = dS K, of which the last takes dS from registers.
#include "cuda/attention_gradients.cuh"
#include "cuda/attention_wgmma.cuh"

namespace cbq::cuda {
namespace {

// q and do stay, tiles of k and v come in turn.
template <int kDim_, int kStages_>
struct QueriesTile {
  static constexpr int kDim = kDim_, kKeys = 128, kStages = kStages_;
  using Queries = PanelTile<kBlockRows, kDim>;
  using Keys = PanelTile<kKeys, kDim>;
  static constexpr int kFixedTiles = 2, kFixedBytes = Queries::kBytes, kStageBytes = Keys::kBytes, kExtraBytes = 0;
  static constexpr int kResults = 1;
  static_assert(kStatisticsRows % kBlockRows == 0);
};

struct QueriesMaps {
  CUtensorMap q, d_o, k, v, dq;
};

template <class Tile>
__device__ void copy_tiles(const AttentionBackward<bf16>& a, const QueriesMaps& maps, SharedParts<Tile>& shared,
                           Rounds rounds) {
  auto& ring = shared.ring;
  for (; rounds.left(); ++rounds.round) {
    const QueryPiece p = query_piece<Tile::kKeys>(a.q, a.k, rounds.piece());
    for (int i = 0; i < p.key_tiles; ++i)
      for (int of_v = 0; of_v < 2; ++of_v) {
        ring.acquire(Tile::kStageBytes);
        Tile::Keys::copy(shared.stage(ring), of_v ? maps.v : maps.k, i * Tile::kKeys,
                         p.at.head / int(a.q.heads / a.k.heads), p.at.batch, ring.full());
        ring.advance();
        if (i > 0) continue;
        auto& fixed = shared.fixed[of_v];
        fixed.acquire(Tile::kFixedBytes);
        Tile::Queries::copy(shared.fixed_tile(of_v), of_v ? maps.d_o : maps.q, p.query, p.at.head, p.at.batch,
                            fixed.full());
        fixed.advance();
      }
  }
}

template <class Tile>
__device__ void compute_tiles(const AttentionBackward<bf16>& a, const QueriesMaps& maps, const Statistics* statistics,
                              int padded, SharedParts<Tile>& shared, Rounds rounds, int warpgroup) {
  constexpr int kDim = Tile::kDim;
  using Queries = typename Tile::Queries;
  using Keys = typename Tile::Keys;
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * 16;  // the warp's first of a tile
  const int offset = int(a.k.tokens - a.q.tokens);
  const float scale_log2 = a.scale * kLog2E, scale[2] = {a.scale, a.scale};
  auto& ring = shared.ring;
#pragma unroll 1
  for (; rounds.left(); ++rounds.round) {
    const QueryPiece p = query_piece<Tile::kKeys>(a.q, a.k, rounds.piece());
    const int first_query = p.query + row, query = first_query + lane / 4;
    const Statistics* of_rows = statistics + p.at.batch_head * padded + query;
    const Statistics of_row[2] = {of_rows[0], of_rows[8]};
    const auto statistic = [&](int, int e) { return of_row[e / 2]; };
    Accumulator<1, kDim / 8> dq;
    clear<1>(dq);
    shared.fixed[0].wait();
    // What the first 8 kBlocks keys of a tile add.
    const auto add_tile = [&]<int kBlocks>(int key, std::integral_constant<int, kBlocks>) {
      FragmentC s[kBlocks], d[kBlocks];
      Rounded<kBlocks> rounded;
      const bool is_last = key + Tile::kKeys >= Tile::kKeys * p.key_tiles;
      Ring<Tile::kStages> of_v = ring;
      of_v.advance();
      ring.wait();
      begin_products();
      multiply_transposed<Queries, Keys>(s, shared.fixed_tile(0), 64 * warpgroup, shared.stage(ring));
      end_products();
      of_v.wait();
      shared.fixed[1].wait();
      begin_products();
      multiply_transposed<Queries, Keys>(d, shared.fixed_tile(1), 64 * warpgroup, shared.stage(of_v));
      end_products();
      await_products<1>(s);
      if (is_last) shared.fixed[0].release();
      probabilities(s, scale_log2, statistic);
      await_products<0>(d);
      of_v.release();
      if (is_last) shared.fixed[1].release();
      score_gradients(d, s, statistic);
      if (key + Tile::kKeys - 1 > first_query + offset)
        mask(d, [&](int j, int e) { return key + lane % 4 * 2 + 8 * j + e % 2 <= query + e / 2 * 8 + offset; });
      round_to(rounded, d);
      begin_products();
      multiply<Keys>(dq[0], rounded, shared.stage(ring));
      end_products();
      await_products<0>(dq[0]);
      ring.release();
      of_v.advance();
      ring = of_v;
    };
#pragma unroll 1
    for (int key = 0; key < p.key_tiles * Tile::kKeys; key += Tile::kKeys)
      if (key + Tile::kKeys / 2 <= p.query + 64 * warpgroup + 63 + offset)
        add_tile(key, std::integral_constant<int, Tile::kKeys / 8>());
      else  // the warpgroup sees less than half of them
        add_tile(key, std::integral_constant<int, Tile::kKeys / 16>());
    shared.fixed[0].advance();
    shared.fixed[1].advance();
    ResultTile<kDim>::await_stores();
    ResultTile<kDim>::store(maps.dq, shared.result(), dq[0], scale, first_query, p.at.head, p.at.batch);
  }
  ResultTile<kDim>::await_stores();
}

template <class Tile>
__global__ __launch_bounds__(kBlockThreads,
                             1) void wgmma_queries_kernel(const __grid_constant__ AttentionBackward<bf16> a,
                                                          const __grid_constant__ QueriesMaps maps,
                                                          const Statistics* statistics, int padded, unsigned pieces) {
  await_previous();
#if CBQ_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  SharedParts<Tile> shared(shared_bytes);
  split_block([&] { copy_tiles<Tile>(a, maps, shared, {pieces}); },
              [&](int warpgroup) { compute_tiles<Tile>(a, maps, statistics, padded, shared, {pieces}, warpgroup); });
#endif
}

template <class Tile>
void run_queries(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  const QueriesMaps maps{tensor_map(args.q, kBlockRows), tensor_map(args.d_o, kBlockRows),
                         tensor_map(args.k, Tile::kKeys), tensor_map(args.v, Tile::kKeys),
                         tensor_map(args.dq, ResultTile<Tile::kDim>::kRows)};
  launch_pieces<Tile>("attention_backward, dq", ctx, wgmma_queries_kernel<Tile>, args.q, args, maps, statistics,
                      int(padded_rows(args)));
}

}  // namespace

void attention_queries_wgmma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  if (args.q.dim == 64) return run_queries<QueriesTile<64, 8>>(ctx, args, statistics);
  run_queries<QueriesTile<128, 4>>(ctx, args, statistics);
}

}  // namespace cbq::cuda
