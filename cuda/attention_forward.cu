// Causal attention on tensor cores (FlashAttention-2, Dao 2023; formulas in attention.cuh), bf16 with f32 sums.
// Work is 4 Tq Tk D / 2 FLOP a head against 4 T D values of traffic: bound by tensor cores, not memory. What counts is
// that they never wait: a warp holds its rows of o and the scores of a tile in registers, p goes from one product to
// the next without shared memory, and the keys and values of the next tile arrive while this one is computed.
#include "cuda/attention_softmax.cuh"

namespace cbq::cuda {
namespace {

// kWarps warps of 16 kRowTiles queries each, kKeys keys at a time.
template <int kDim_, int kWarps_, int kRowTiles_, int kKeys_, int kBlocksPerSm_>
struct ForwardTile {
  static constexpr int kDim = kDim_, kWarps = kWarps_, kRowTiles = kRowTiles_, kKeys = kKeys_;
  static constexpr int kBlocksPerSm = kBlocksPerSm_;
  static constexpr int kThreads = 32 * kWarps, kWarpQueries = 16 * kRowTiles, kQueries = kWarps * kWarpQueries;
  static constexpr int kQueryBytes = kQueries * kRowBytes<kDim>, kKeyBytes = kKeys * kRowBytes<kDim>;
  static constexpr int kSharedBytes = kQueryBytes + 4 * kKeyBytes;  // q, and two stages of k and v
};

template <class Tile>
using Scores = Accumulator<Tile::kRowTiles, Tile::kKeys / 8>;

template <class Tile>
__global__ __launch_bounds__(Tile::kThreads,
                             Tile::kBlocksPerSm) void forward_kernel(const __grid_constant__ AttentionForward<bf16> a) {
  await_previous();
  extern __shared__ __align__(1024) unsigned char shared[];
  constexpr int kDim = Tile::kDim, kKeys = Tile::kKeys;
  const int queries = int(a.q.tokens), keys = int(a.k.tokens), dim = int(a.q.dim), offset = keys - queries;
  BlockPosition at = block_position(a.q.batch, a.q.heads);
  at.tile = (queries + Tile::kQueries - 1) / Tile::kQueries - 1 - at.tile;  // the last see the most keys
  const int key_head = at.head / int(a.q.heads / a.k.heads), lane = int(threadIdx.x) % 32;

  const int block_query = at.tile * Tile::kQueries;
  const int warp_query = block_query + int(threadIdx.x) / 32 * Tile::kWarpQueries, query = warp_query + lane / 4;
  const int keys_seen = min(keys, block_query + Tile::kQueries + offset);
  const std::uint32_t q_tile = shared_address(shared), k_tiles = q_tile + Tile::kQueryBytes;
  const std::uint32_t q_warp = q_tile + (warp_query - block_query) * kRowBytes<kDim> + lane_offset_a<kDim>(lane);
  const auto stage_of = [&](int key) { return k_tiles + key / kKeys % 2 * 2 * Tile::kKeyBytes; };  // k, v, k, v
  using Copier = TileCopier<kDim, Tile::kThreads>;
  Copier k(head_rows(a.k, at.batch, key_head), 0, keys, dim), v(head_rows(a.v, at.batch, key_head), 0, keys, dim);
  const auto copy_keys = [&](int first) {
    k.template copy<kKeys>(stage_of(first));
    v.template copy<kKeys>(stage_of(first) + Tile::kKeyBytes);
    commit_copies();
  };

  Accumulator<Tile::kRowTiles, kDim / 8> o;
  SoftmaxState<Tile::kRowTiles> softmax;
  RowFactors<Tile::kRowTiles> factor;
  clear(o);
  softmax.clear();
  Copier(head_rows(a.q, at.batch, at.head), block_query, queries, dim).template copy<Tile::kQueries>(q_tile);
  copy_keys(0);
#pragma unroll 1
  for (int key = 0; key < keys_seen; key += kKeys) {
    wait_copies();
    __syncthreads();  // this tile is there, and nobody reads the other stage any more
    if (key + kKeys < keys_seen) copy_keys(key + kKeys);
    if (key > warp_query + Tile::kWarpQueries - 1 + offset) continue;
    const std::uint32_t stage = stage_of(key);
    // The same address again: derived from it once for all tiles, those of the product would not fit in registers.
    const std::uint32_t q_now = __shfl_sync(0xffffffffu, q_warp, lane);
    Scores<Tile> s;
    multiply_transposed<kDim, Tile::kRowTiles, kKeys / 8>(s, q_now, stage + lane_offset_b<kDim>(lane));
    if (key + kKeys - 1 > warp_query + offset) mask(s, query + offset, key + lane % 4 * 2);
    softmax.add(s, factor, a.scale * kLog2E);
    scale_rows(o, factor);
    multiply<kDim, Tile::kRowTiles, kKeys / 8>(o, s, stage + Tile::kKeyBytes + lane_offset_a<kDim>(lane));
  }
  softmax.finish(factor, a.lse ? a.lse + at.batch_head * queries : nullptr, query, queries, a.scale);
  store_rows(head_rows(a.o, at.batch, at.head), o, factor, query, queries, dim);
}

template <class Tile>
void run_forward(Context& ctx, const AttentionForward<bf16>& args) {
  const std::int64_t tiles = (args.q.tokens + Tile::kQueries - 1) / Tile::kQueries;
  const auto kernel = forward_kernel<Tile>;
  launch_dependent(
      "attention_forward", ctx,
      {block_count("attention_forward", tiles, args.q.batch, args.q.heads), Tile::kThreads, Tile::kSharedBytes}, kernel,
      args);
}

}  // namespace

void attention_forward_mma(Context& ctx, const AttentionForward<bf16>& args) {
  dispatch_dim(args.q.dim,
               [&]<int kDim>() { run_forward<ForwardTile<kDim, 4, 2, kDim == 128 ? 32 : 64, 2>>(ctx, args); });
}

}  // namespace cbq::cuda
