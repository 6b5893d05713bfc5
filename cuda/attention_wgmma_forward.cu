// Causal attention on wgmma (FlashAttention-3, Shah et al. 2024; formulas in attention.cuh), bf16 with f32 sums.
#include "cuda/attention_softmax.cuh"
#include "cuda/attention_wgmma.cuh"

namespace cbq::cuda {
namespace {

template <int kDim_, int kKeys_, int kStages_, bool kOrdered_>
struct ForwardTile {
  static constexpr int kDim = kDim_, kKeys = kKeys_, kStages = kStages_, kWarpgroups = 2;
  static constexpr bool kOrdered = kOrdered_;
  static constexpr int kQueries = 64 * kWarpgroups, kConsumers = kWarpgroup * kWarpgroups,
                       kThreads = kConsumers + kWarpgroup;
  using Queries = PanelTile<kQueries, kDim>;
  using Keys = PanelTile<kKeys, kDim>;
  static constexpr int kBarrierBytes = 16 + Ring<kStages>::kBytes;
  static constexpr int kSharedBytes = 1024 + Queries::kBytes + kStages * Keys::kBytes + kBarrierBytes;
};

struct ForwardMaps {
  CUtensorMap q, k, v;
};

template <class Tile>
struct ForwardShared {
  std::uint32_t q, keys;
  Ring<1> of_q;
  Ring<Tile::kStages> ring;

  __device__ explicit ForwardShared(const unsigned char* shared) {
    q = (shared_address(shared) + 1023) / 1024 * 1024;
    keys = q + Tile::Queries::kBytes;
    of_q.barriers = keys + Tile::kStages * Tile::Keys::kBytes;
    ring.barriers = of_q.barriers + 16;
    if (threadIdx.x == 0) {
      of_q.init(Tile::kConsumers / 32);
      ring.init(Tile::kConsumers / 32);
      publish_barriers();
    }
    __syncthreads();
  }
  __device__ std::uint32_t tile(const Ring<Tile::kStages>& at) const { return keys + at.stage * Tile::Keys::kBytes; }
};

struct ForwardPiece {
  BlockPosition at;
  int query, key_tiles;
};

template <class Tile>
__device__ ForwardPiece forward_piece(const AttentionForward<bf16>& a, unsigned piece) {
  const int queries = int(a.q.tokens), keys = int(a.k.tokens);
  BlockPosition at = block_position(piece, a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kQueries - 1) / Tile::kQueries - 1 - at.tile;  // the last see the most keys
  const int query = at.tile * Tile::kQueries, keys_seen = min(keys, query + Tile::kQueries + keys - queries);
  return {at, query, (keys_seen + Tile::kKeys - 1) / Tile::kKeys};
}

// Tiles come in the order k0, k1, v0, k2, v1, ...
template <class Tile>
__device__ void copy_tiles(const AttentionForward<bf16>& a, const ForwardMaps& maps, ForwardShared<Tile>& shared,
                           Rounds rounds) {
  auto& ring = shared.ring;
  for (; rounds.left(); ++rounds.round) {
    const ForwardPiece p = forward_piece<Tile>(a, rounds.piece());
    const int key_head = p.at.head / int(a.q.heads / a.k.heads);
    const auto copy = [&](const CUtensorMap& map, int tile) {
      ring.acquire(Tile::Keys::kBytes);
      Tile::Keys::copy(shared.tile(ring), map, tile * Tile::kKeys, key_head, p.at.batch, ring.full());
      ring.advance();
    };
    copy(maps.k, 0);
    shared.of_q.acquire(Tile::Queries::kBytes);
    Tile::Queries::copy(shared.q, maps.q, p.query, p.at.head, p.at.batch, shared.of_q.full());
    shared.of_q.advance();
    for (int i = 0; i < p.key_tiles; ++i) {
      if (i + 1 < p.key_tiles) copy(maps.k, i + 1);
      copy(maps.v, i);
    }
  }
}

template <class Tile>
__device__ void await_turn(int warpgroup) {
  if (Tile::kOrdered) asm volatile("bar.sync %0, %1;" ::"r"(1 + warpgroup), "n"(Tile::kConsumers) : "memory");
}
template <class Tile>
__device__ void pass_turn(int warpgroup) {
  if (Tile::kOrdered) asm volatile("bar.arrive %0, %1;" ::"r"(2 - warpgroup), "n"(Tile::kConsumers) : "memory");
}

template <class Tile>
__device__ void compute_tiles(const AttentionForward<bf16>& a, ForwardShared<Tile>& shared, Rounds rounds,
                              int warpgroup) {
  constexpr int kDim = Tile::kDim, kKeyBlocks = Tile::kKeys / 8;
  using Queries = typename Tile::Queries;
  using Keys = typename Tile::Keys;
  const int warp = int(threadIdx.x) % kWarpgroup / 32;
  const int lane = int(threadIdx.x) % 32, offset = int(a.k.tokens - a.q.tokens);
  const float scale_log2 = a.scale * kLog2E;
  auto& ring = shared.ring;
  if (warpgroup == 1) pass_turn<Tile>(warpgroup);
  for (; rounds.left(); ++rounds.round) {
    const ForwardPiece p = forward_piece<Tile>(a, rounds.piece());
    const int warp_query = p.query + 64 * warpgroup + 16 * warp, query = warp_query + lane / 4;
    const auto mask_tile = [&](Accumulator<1, kKeyBlocks>& s, int key) {
      if (key + Tile::kKeys - 1 > warp_query + offset) mask<1>(s, query + offset, key + lane % 4 * 2);
    };
    Accumulator<1, kDim / 8> o;
    Accumulator<1, kKeyBlocks> s;
    SoftmaxState<1> softmax;
    RowFactors<1> factor;
    Rounded<kKeyBlocks> rounded;
    softmax.clear();
    clear<1>(o);

    shared.of_q.wait();
    ring.wait();
    await_turn<Tile>(warpgroup);
    begin_products();
    multiply_transposed<Queries, Keys>(s[0], shared.q, 64 * warpgroup, shared.tile(ring));
    end_products();
    pass_turn<Tile>(warpgroup);
    await_products<0>(s[0]);
    ring.release();
    ring.advance();
    if (p.key_tiles == 1) shared.of_q.release();
    mask_tile(s, 0);
    softmax.add(s, factor, scale_log2);
    round_to(rounded, s[0]);
#pragma unroll 1
    for (int i = 1; i < p.key_tiles; ++i) {
      ring.wait();
      await_turn<Tile>(warpgroup);
      begin_products();
      multiply_transposed<Queries, Keys>(s[0], shared.q, 64 * warpgroup, shared.tile(ring));
      end_products();
      Ring<Tile::kStages> of_v = ring;
      of_v.advance();
      of_v.wait();
      begin_products();
      multiply<Keys>(o[0], rounded, shared.tile(of_v));
      end_products();
      pass_turn<Tile>(warpgroup);
      await_products<1>(s[0]);
      ring.release();
      if (i + 1 == p.key_tiles) shared.of_q.release();
      mask_tile(s, i * Tile::kKeys);
      softmax.add(s, factor, scale_log2);
      await_products<0>(o[0]);
      of_v.release();
      scale_rows<1>(o, factor);
      round_to(rounded, s[0]);
      of_v.advance();
      ring = of_v;
    }
    ring.wait();
    begin_products();
    multiply<Keys>(o[0], rounded, shared.tile(ring));
    end_products();
    await_products<0>(o[0]);
    ring.release();
    ring.advance();
    shared.of_q.advance();
    softmax.finish(factor, a.lse ? a.lse + p.at.batch_head * a.q.tokens : nullptr, query, int(a.q.tokens), a.scale);
    store_rows<1>(head_rows(a.o, p.at.batch, p.at.head), o, factor, query, int(a.q.tokens), int(a.q.dim));
  }
}

template <class Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             1) void wgmma_forward_kernel(const __grid_constant__ AttentionForward<bf16> a,
                                                          const __grid_constant__ ForwardMaps maps, unsigned pieces) {
  await_previous();
#if CBQ_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  ForwardShared<Tile> shared(shared_bytes);
  const Rounds rounds{pieces};
  const int warpgroup = warpgroup_index();
  if (warpgroup == Tile::kWarpgroups) {
    shrink_registers<24>();
    if (threadIdx.x == Tile::kConsumers) copy_tiles<Tile>(a, maps, shared, rounds);
  } else {
    grow_registers<240>();
    compute_tiles<Tile>(a, shared, rounds, warpgroup);
  }
#endif
}

template <class Tile>
void run_forward(Context& ctx, const AttentionForward<bf16>& args) {
  const std::int64_t tiles = (args.q.tokens + Tile::kQueries - 1) / Tile::kQueries;
  const unsigned pieces = block_count("attention_forward", tiles, args.q.batch, args.q.heads);
  const ForwardMaps maps{tensor_map(args.q, Tile::kQueries), tensor_map(args.k, Tile::kKeys),
                         tensor_map(args.v, Tile::kKeys)};
  const unsigned blocks = std::min(pieces, unsigned(cuda_context(ctx).multiprocessors));
  launch_dependent("attention_forward", ctx, {blocks, Tile::kThreads, Tile::kSharedBytes}, wgmma_forward_kernel<Tile>,
                   args, maps, pieces);
}

}  // namespace

void attention_forward_wgmma(Context& ctx, const AttentionForward<bf16>& args) {
  if (args.q.dim == 64) return run_forward<ForwardTile<64, 128, 6, false>>(ctx, args);
  run_forward<ForwardTile<128, 128, 6, false>>(ctx, args);
}

}  // namespace cbq::cuda
