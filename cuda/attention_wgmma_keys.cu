// dk and dv of causal attention on wgmma (formulas in attention.cuh): a block owns keys and walks over the queries that
// see them, of all query heads of its key head, in order. Four products, S^T = K Q^T, dP^T = V dO^T, dV = P^T dO and
// dK = dS^T Q; with keys as rows, P^T and dS^T feed the last two from registers.
#include "cuda/attention_gradients.cuh"
#include "cuda/attention_wgmma.cuh"

namespace cbq::cuda {
namespace {

template <int kDim_, int kQueries_, int kStages_>
struct KeysTile {
  static constexpr int kDim = kDim_, kQueries = kQueries_, kStages = kStages_, kWarpgroups = 2;
  static constexpr int kKeys = 64 * kWarpgroups, kConsumers = kWarpgroup * kWarpgroups;
  static constexpr int kThreads = kConsumers + kWarpgroup;
  using Keys = PanelTile<kKeys, kDim>;
  using Queries = PanelTile<kQueries, kDim>;
  static constexpr int kStatisticsBytes = kQueries * int(sizeof(Statistics));
  static constexpr int kStageBytes = 2 * Queries::kBytes + kStatisticsBytes;  // what a stage receives
  static constexpr int kBarrierBytes = Ring<1>::kBytes + Ring<kStages>::kBytes;
  static constexpr int kSharedBytes = 1024 + 2 * Keys::kBytes + kStages * kStageBytes + kBarrierBytes;
  static_assert(kStatisticsRows % kQueries == 0);
};

struct KeysMaps {
  CUtensorMap k, v, q, d_o;
};

// k and v of a piece, and a ring of tiles of q and do and their statistics.
template <class Tile>
struct KeysShared {
  std::uint32_t k, v, stages;
  const unsigned char* statistics;
  Ring<1> of_keys;
  Ring<Tile::kStages> ring;

  __device__ explicit KeysShared(const unsigned char* shared) {
    k = (shared_address(shared) + 1023) / 1024 * 1024;
    v = k + Tile::Keys::kBytes;
    stages = v + Tile::Keys::kBytes;
    const std::uint32_t end = stages + 2 * Tile::kStages * Tile::Queries::kBytes;
    statistics = shared + (end - shared_address(shared));
    of_keys.barriers = end + Tile::kStages * Tile::kStatisticsBytes;
    ring.barriers = of_keys.barriers + Ring<1>::kBytes;
    if (threadIdx.x == 0) {
      of_keys.init(Tile::kConsumers / 32);
      ring.init(Tile::kConsumers / 32);
      publish_barriers();
    }
    __syncthreads();
  }
  __device__ std::uint32_t q(const Ring<Tile::kStages>& at) const {
    return stages + 2 * at.stage * Tile::Queries::kBytes;
  }
  __device__ std::uint32_t d_o(const Ring<Tile::kStages>& at) const { return q(at) + Tile::Queries::kBytes; }
  __device__ const unsigned char* statistics_at(const Ring<Tile::kStages>& at) const {
    return statistics + at.stage * Tile::kStatisticsBytes;
  }
};

struct KeysPiece {
  BlockPosition at;
  int key, first_query, steps;  // steps of each query head
};

template <class Tile>
__device__ KeysPiece keys_piece(const AttentionBackward<bf16>& a, unsigned piece) {
  const BlockPosition at = block_position(piece, a.k.batch, a.k.heads);  // the first keys are seen by the most queries
  const int queries = int(a.q.tokens), offset = int(a.k.tokens) - queries, key = at.tile * Tile::kKeys;
  const int first = max(0, key - offset) / Tile::kQueries * Tile::kQueries;
  return {at, key, first, (queries - first + Tile::kQueries - 1) / Tile::kQueries};
}

template <class Tile>
__device__ void copy_tiles(const AttentionBackward<bf16>& a, const KeysMaps& maps, const Statistics* statistics,
                           int padded, KeysShared<Tile>& shared, Rounds rounds) {
  auto& ring = shared.ring;
  const int group = int(a.q.heads / a.k.heads);
  for (; rounds.left(); ++rounds.round) {
    const KeysPiece p = keys_piece<Tile>(a, rounds.piece());
    shared.of_keys.acquire(2 * Tile::Keys::kBytes);
    Tile::Keys::copy(shared.k, maps.k, p.key, p.at.head, p.at.batch, shared.of_keys.full());
    Tile::Keys::copy(shared.v, maps.v, p.key, p.at.head, p.at.batch, shared.of_keys.full());
    shared.of_keys.advance();
    for (int head = p.at.head * group; head < (p.at.head + 1) * group; ++head) {
      const Statistics* of_queries = statistics + (p.at.batch * a.q.heads + head) * padded;
      for (int i = 0; i < p.steps; ++i) {
        const int query = p.first_query + i * Tile::kQueries;
        ring.acquire(Tile::kStageBytes);
        Tile::Queries::copy(shared.q(ring), maps.q, query, head, p.at.batch, ring.full());
        Tile::Queries::copy(shared.d_o(ring), maps.d_o, query, head, p.at.batch, ring.full());
        copy_bytes(shared_address(shared.statistics_at(ring)), of_queries + query, Tile::kStatisticsBytes, ring.full());
        ring.advance();
      }
    }
  }
}

template <class Tile>
__device__ void compute_tiles(const AttentionBackward<bf16>& a, KeysShared<Tile>& shared, Rounds rounds,
                              int warpgroup) {
  constexpr int kDim = Tile::kDim, kQueryBlocks = Tile::kQueries / 8;
  using Queries = typename Tile::Queries;
  using Keys = typename Tile::Keys;
  const int warp = int(threadIdx.x) % kWarpgroup / 32, lane = int(threadIdx.x) % 32;
  const int offset = int(a.k.tokens - a.q.tokens), group = int(a.q.heads / a.k.heads);
  const float scale_log2 = a.scale * kLog2E;
  auto& ring = shared.ring;
  for (; rounds.left(); ++rounds.round) {
    const KeysPiece p = keys_piece<Tile>(a, rounds.piece());
    const int first_key = p.key + 64 * warpgroup, warp_key = first_key + 16 * warp;
    Accumulator<1, kDim / 8> dk, dv;
    clear<1>(dk);
    clear<1>(dv);
    shared.of_keys.wait();
#pragma unroll 1
    for (int i = 0; i < group * p.steps; ++i) {
      // The last key that the first query of the tile sees.
      const int last_key = p.first_query + i % p.steps * Tile::kQueries + offset;
      ring.wait();
      if (last_key + Tile::kQueries - 1 >= first_key) {
        FragmentC s[kQueryBlocks], d[kQueryBlocks];
        Rounded<kQueryBlocks> of_p, of_ds;
        begin_products();
        multiply_transposed<Keys, Queries>(s, shared.k, 64 * warpgroup, shared.q(ring));
        end_products();
        multiply_transposed<Keys, Queries>(d, shared.v, 64 * warpgroup, shared.d_o(ring));
        end_products();
        const auto* of_queries = reinterpret_cast<const float4*>(shared.statistics_at(ring)) + lane % 4;
        const auto statistic = [&](int j, int e) {
          const float4 two = of_queries[4 * j];
          return e % 2 ? Statistics{two.z, two.w} : Statistics{two.x, two.y};
        };
        await_products<1>(s);
        probabilities(s, scale_log2, statistic);
        if (last_key < warp_key + 15)
          mask(s, [&](int j, int e) {
            return warp_key + lane / 4 + e / 2 * 8 <= last_key + lane % 4 * 2 + 8 * j + e % 2;
          });
        await_products<0>(d);
        score_gradients(d, s, statistic);
        round_to(of_p, s);
        round_to(of_ds, d);
        begin_products();
        multiply<Queries>(dv[0], of_p, shared.d_o(ring));
        multiply<Queries>(dk[0], of_ds, shared.q(ring));
        end_products();
        await_products<0>(dv[0], dk[0]);
      }
      ring.release();
      if (i + 1 == group * p.steps) shared.of_keys.release();
      ring.advance();
    }
    shared.of_keys.advance();
    const float one[1][2] = {{1, 1}}, scale[1][2] = {{a.scale, a.scale}};
    const int key = warp_key + lane / 4, keys = int(a.k.tokens), dim = int(a.q.dim);
    if (a.dv.data) store_rows<1>(head_rows(a.dv, p.at.batch, p.at.head), dv, one, key, keys, dim);
    if (a.dk.data) store_rows<1>(head_rows(a.dk, p.at.batch, p.at.head), dk, scale, key, keys, dim);
  }
}

template <class Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             1) void wgmma_keys_kernel(const __grid_constant__ AttentionBackward<bf16> a,
                                                       const __grid_constant__ KeysMaps maps,
                                                       const Statistics* statistics, int padded, unsigned pieces) {
  await_previous();
#if CBQ_HAS_WGMMA
  extern __shared__ __align__(1024) unsigned char shared_bytes[];
  KeysShared<Tile> shared(shared_bytes);
  const Rounds rounds{pieces};
  const int warpgroup = warpgroup_index();
  if (warpgroup == Tile::kWarpgroups) {
    shrink_registers<24>();
    if (threadIdx.x == Tile::kConsumers) copy_tiles<Tile>(a, maps, statistics, padded, shared, rounds);
  } else {
    grow_registers<240>();
    compute_tiles<Tile>(a, shared, rounds, warpgroup);
  }
#endif
}

template <class Tile>
void run_keys(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  const std::int64_t tiles = (args.k.tokens + Tile::kKeys - 1) / Tile::kKeys;
  const unsigned pieces = block_count("attention_backward", tiles, args.k.batch, args.k.heads);
  const KeysMaps maps{tensor_map(args.k, Tile::kKeys), tensor_map(args.v, Tile::kKeys),
                      tensor_map(args.q, Tile::kQueries), tensor_map(args.d_o, Tile::kQueries)};
  const unsigned blocks = std::min(pieces, unsigned(cuda_context(ctx).multiprocessors));
  launch_dependent("attention_backward, dk and dv", ctx, {blocks, Tile::kThreads, Tile::kSharedBytes},
                   wgmma_keys_kernel<Tile>, args, maps, statistics, int(padded_rows(args)), pieces);
}

}  // namespace

void attention_keys_wgmma(Context& ctx, const AttentionBackward<bf16>& args, const Statistics* statistics) {
  if (args.q.dim == 64) return run_keys<KeysTile<64, 64, 4>>(ctx, args, statistics);
  run_keys<KeysTile<128, 64, 4>>(ctx, args, statistics);
}

}  // namespace cbq::cuda
