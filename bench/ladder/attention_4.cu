// Causal attention, rung 4: tensor cores.
//
// What changes: both products are mma.sync on bf16 with f32 sums (FlashAttention-2, Dao 2023). A warp owns 16 queries:
// q, the scores of 64 keys and o stay in its registers, and p goes from one product to the next without shared memory.
// The arithmetic stands in attention_softmax.cuh.
//
// Prediction at T 2048, H 64: 10 times rung 3, 150 TFLOP/s. One instruction does 4,096 multiply-adds and reads its keys
// from shared memory as bf16, 8 matrices a load. What is left: the block waits for every tile of keys to arrive before
// it computes, and nothing is on its way meanwhile but what the other blocks of the multiprocessor asked for.
#include "bench/ladder/attention_softmax.cuh"

namespace cbq::ladder {
namespace {

// Rows first .. first + 63 of a head to shared memory, 16 bytes a thread.
__device__ void load(unsigned char* tile, const AttentionArgs& a, const bf16* from, int head, int first) {
#pragma unroll
  for (int i = int(threadIdx.x); i < kTileRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    *reinterpret_cast<uint4*>(tile + cuda::chunk_offset<kDim>(row, chunk)) =
        *reinterpret_cast<const uint4*>(from + a.at(head, first + row) + 8 * chunk);
  }
}

__global__ void __launch_bounds__(kThreads) kernel(AttentionArgs a) {
  __shared__ __align__(1024) unsigned char tiles[2][kTileBytes];
  const int head = int(blockIdx.y), query = int(gridDim.x - 1 - blockIdx.x) * kTileRows;  // the longest rows first
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const std::uint32_t k_tile = cuda::shared_address(tiles[0]), v_tile = cuda::shared_address(tiles[1]);

  FragmentA q[kDim / 16];
  load(tiles[0], a, a.q, head, query);
  __syncthreads();
  const std::uint32_t q_rows = k_tile + warp * kWarpRows * kRowBytes + cuda::lane_offset_a<kDim>(lane);
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) cuda::load_matrices(q[d], q_rows ^ 32 * d);

  WarpState state;
#pragma unroll 1
  for (int key = 0; key <= query; key += kTileRows) {
    __syncthreads();  // nobody reads the old tiles any more
    load(tiles[0], a, a.k, head, key);
    load(tiles[1], a, a.v, head, key);
    __syncthreads();
    FragmentC s[kTileRows / 8] = {};
    scores(s, q, k_tile);
    if (key == query) mask(s);
    online_softmax(s, state, a.scale * kLog2E);
    add_product(state.o, s, v_tile);
  }
  store(a, state, head, query);
}

}  // namespace

void attention_tensor_cores(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  const AttentionArgs a = attention_args(o, lse, q, k, v, scale);
  cuda::launch("attention_tensor_cores", ctx,
               {dim3(unsigned(a.tokens) / kTileRows, unsigned(a.head_count())), kThreads}, kernel, a);
}

}  // namespace cbq::ladder
