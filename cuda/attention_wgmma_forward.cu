// Causal attention on wgmma (FlashAttention-3, Shah et al. 2024; formulas in attention.cuh), bf16 with f32 sums.
// Work is 4 Tq Tk D / 2 FLOP a head: bound by tensor cores. The softmax of a tile is computed while the product p v of
// the tile before runs, and while the other warpgroup multiplies; a piece of work ends while the next one begins.
#include "cuda/attention_softmax.cuh"
#include "cuda/attention_wgmma.cuh"

namespace cbq::cuda {
namespace {

template <int kDim_, int kStages_>
struct ForwardTile {
  static constexpr int kDim = kDim_, kKeys = 128, kStages = kStages_;
  using Queries = PanelTile<kBlockRows, kDim>;
  using Keys = PanelTile<kKeys, kDim>;
  static constexpr int kFixedTiles = 1, kFixedBytes = Queries::kBytes, kStageBytes = Keys::kBytes, kExtraBytes = 0;
  static constexpr int kResults = 1;
};

struct ForwardMaps {
  CUtensorMap q, k, v, o;
};

// Tiles come in the order k0, k1, v0, k2, v1, ... over all pieces.
template <class Tile>
__device__ void copy_tiles(const AttentionForward<bf16>& a, const ForwardMaps& maps, SharedParts<Tile>& shared,
                           Rounds rounds) {
  auto& ring = shared.ring;
  const auto copy = [&](const CUtensorMap& map, const BlockPosition& at, int tile) {
    ring.acquire(Tile::kStageBytes);
    Tile::Keys::copy(shared.stage(ring), map, tile * Tile::kKeys, at.head / int(a.q.heads / a.k.heads), at.batch,
                     ring.full());
    ring.advance();
  };
  BlockPosition of_v{};
  int v_tile = -1;
  for (; rounds.left(); ++rounds.round) {
    const QueryPiece p = query_piece<Tile::kKeys>(a.q, a.k, rounds.piece());
    for (int i = 0; i < p.key_tiles; ++i) {
      copy(maps.k, p.at, i);
      if (v_tile >= 0) copy(maps.v, of_v, v_tile);
      of_v = p.at, v_tile = i;
      if (i > 0) continue;
      shared.fixed[0].acquire(Tile::kFixedBytes);
      Tile::Queries::copy(shared.fixed_tile(0), maps.q, p.query, p.at.head, p.at.batch, shared.fixed[0].full());
      shared.fixed[0].advance();
    }
  }
  copy(maps.v, of_v, v_tile);
}

template <class Tile>
__device__ void compute_tiles(const AttentionForward<bf16>& a, const ForwardMaps& maps, SharedParts<Tile>& shared,
                              Rounds rounds, int warpgroup) {
  constexpr int kDim = Tile::kDim, kKeyBlocks = Tile::kKeys / 8;
  using Queries = typename Tile::Queries;
  using Keys = typename Tile::Keys;
  const int lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 32 * 16;  // the warp's first of a tile
  const int queries = int(a.q.tokens), offset = int(a.k.tokens) - queries;
  const float scale_log2 = a.scale * kLog2E;
  auto& ring = shared.ring;
  Accumulator<1, kDim / 8> o;
  Accumulator<1, kKeyBlocks> s;
  Rounded<kKeyBlocks> rounded;
  SoftmaxState<1> softmax;
  RowFactors<1> factor;
  const auto start_scores = [&] {
    begin_products();
    multiply_transposed<Queries, Keys>(s[0], shared.fixed_tile(0), 64 * warpgroup, shared.stage(ring));
    end_products();
  };
  const auto start_output = [&](const Ring<Tile::kStages>& of_v) {
    of_v.wait();
    begin_products();
    multiply<Keys>(o[0], rounded, shared.stage(of_v));
    end_products();
  };
  const auto store = [&](const QueryPiece& p) {
    softmax.finish(factor, a.lse ? a.lse + p.at.batch_head * queries : nullptr, p.query + row + lane / 4, queries,
                   a.scale);
    ResultTile<kDim>::await_stores();
    ResultTile<kDim>::store(maps.o, shared.result(), o[0], factor[0], p.query + row, p.at.head, p.at.batch);
  };

  QueryPiece p = query_piece<Tile::kKeys>(a.q, a.k, rounds.piece());
  const auto add_tile = [&](int i) {
    const int key = i * Tile::kKeys, query = p.query + row;
    if (key + Tile::kKeys - 1 > query + offset) mask<1>(s, query + lane / 4 + offset, key + lane % 4 * 2);
    softmax.add(s, factor, scale_log2);
  };
  // Products are started in turns: left alone, both warpgroups come to compute their softmax at the same time.
  if (warpgroup == 1) pass_turn(warpgroup);
  shared.fixed[0].wait();
  ring.wait();
  await_turn(warpgroup);
  start_scores();
  pass_turn(warpgroup);
  await_products<0>(s[0]);
  ring.release();
  ring.advance();
  while (true) {  // the scores of the piece's first tile are there
    if (p.key_tiles == 1) shared.fixed[0].release();
    softmax.clear();
    clear<1>(o);
    add_tile(0);
    round_to(rounded, s[0]);
#pragma unroll 1
    for (int i = 1; i < p.key_tiles; ++i) {
      ring.wait();
      await_turn(warpgroup);
      start_scores();
      Ring<Tile::kStages> of_v = ring;
      of_v.advance();
      start_output(of_v);
      pass_turn(warpgroup);
      await_products<1>(s[0]);
      ring.release();
      if (i + 1 == p.key_tiles) shared.fixed[0].release();
      add_tile(i);
      await_products<0>(o[0]);
      of_v.release();
      scale_rows<1>(o, factor);
      round_to(rounded, s[0]);
      of_v.advance();
      ring = of_v;
    }
    shared.fixed[0].advance();
    ++rounds.round;
    if (!rounds.left()) break;
    // The end of this piece, while the first scores of the next one are computed.
    Ring<Tile::kStages> of_v = ring;
    of_v.advance();
    await_turn(warpgroup);
    start_output(of_v);
    shared.fixed[0].wait();
    ring.wait();
    start_scores();
    pass_turn(warpgroup);
    await_products<1>(o[0]);
    of_v.release();
    store(p);
    await_products<0>(s[0]);
    ring.release();
    of_v.advance();
    ring = of_v;
    p = query_piece<Tile::kKeys>(a.q, a.k, rounds.piece());
  }
  start_output(ring);
  await_products<0>(o[0]);
  store(p);
  ResultTile<kDim>::await_stores();
}

template <class Tile>
__global__ __launch_bounds__(kBlockThreads,
                             1) void wgmma_forward_kernel(const __grid_constant__ AttentionForward<bf16> a,
                                                          const __grid_constant__ ForwardMaps maps, unsigned pieces) {
  await_previous();
#if CBQ_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  SharedParts<Tile> shared(shared_bytes);
  split_block([&] { copy_tiles<Tile>(a, maps, shared, {pieces}); },
              [&](int warpgroup) { compute_tiles<Tile>(a, maps, shared, {pieces}, warpgroup); });
#endif
}

template <class Tile>
void run_forward(Context& ctx, const AttentionForward<bf16>& args) {
  const ForwardMaps maps{tensor_map(args.q, kBlockRows), tensor_map(args.k, Tile::kKeys),
                         tensor_map(args.v, Tile::kKeys), tensor_map(args.o, ResultTile<Tile::kDim>::kRows)};
  launch_pieces<Tile>("attention_forward", ctx, wgmma_forward_kernel<Tile>, args.q, args, maps);
}

}  // namespace

void attention_forward_wgmma(Context& ctx, const AttentionForward<bf16>& args) {
  if (args.q.dim == 64) return run_forward<ForwardTile<64, 6>>(ctx, args);
  run_forward<ForwardTile<128, 5>>(ctx, args);
}

}  // namespace cbq::cuda
