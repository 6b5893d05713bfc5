// Causal attention, rung 5: copies that run beside the products.
//
// What changes: keys and values have two places in shared memory. cp.async copies the next tile past the registers
// while this one is computed, and one barrier a tile is enough.
//
// Prediction at T 2048, H 64: 1.4 times rung 4, 210 TFLOP/s. The wait for a tile, some 700 cycles of the 2,500 that a
// tile takes, is hidden. What is left: a matrix of keys read from shared memory serves 16 queries only, and
// exponentials stop the warp's own products. The kernel in cuda/ goes on from here.
#include "bench/ladder/attention_softmax.cuh"

namespace cbq::ladder {
namespace {

// Starts to copy rows first .. first + 63 of a head to shared memory.
__device__ void copy(std::uint32_t tile, const AttentionArgs& a, const bf16* from, int head, int first) {
#pragma unroll
  for (int i = int(threadIdx.x); i < kTileRows * kChunks; i += kThreads)
    cuda::copy_async(tile + cuda::chunk_offset<kDim>(i / kChunks, i % kChunks),
                     from + a.at(head, first + i / kChunks) + i % kChunks * 8, 16);
}

__global__ void __launch_bounds__(kThreads) kernel(AttentionArgs a) {
  extern __shared__ __align__(1024) unsigned char shared[];  // q, then two stages of k and v
  const int head = int(blockIdx.y), query = int(gridDim.x - 1 - blockIdx.x) * kTileRows;  // the longest rows first
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const std::uint32_t q_tile = cuda::shared_address(shared), stages = q_tile + kTileBytes;
  const auto stage_of = [&](int key) { return stages + key / kTileRows % 2 * 2 * kTileBytes; };
  const auto copy_keys = [&](int key) {
    copy(stage_of(key), a, a.k, head, key);
    copy(stage_of(key) + kTileBytes, a, a.v, head, key);
    cuda::commit_copies();
  };

  copy(q_tile, a, a.q, head, query);
  copy_keys(0);
  cuda::wait_copies();
  __syncthreads();
  FragmentA q[kDim / 16];
  const std::uint32_t q_rows = q_tile + warp * kWarpRows * kRowBytes + cuda::lane_offset_a<kDim>(lane);
#pragma unroll
  for (int d = 0; d < kDim / 16; ++d) cuda::load_matrices(q[d], q_rows ^ 32 * d);

  WarpState state;
#pragma unroll 1
  for (int key = 0; key <= query; key += kTileRows) {
    cuda::wait_copies();
    __syncthreads();  // this tile is there, and nobody reads the other stage any more
    if (key < query) copy_keys(key + kTileRows);
    FragmentC s[kTileRows / 8] = {};
    scores(s, q, stage_of(key));
    if (key == query) mask(s);
    online_softmax(s, state, a.scale * kLog2E);
    add_product(state.o, s, stage_of(key) + kTileBytes);
  }
  store(a, state, head, query);
}

}  // namespace

void attention_async(Context& ctx, View o, View lse, View q, View k, View v, double scale) {
  const AttentionArgs a = attention_args(o, lse, q, k, v, scale);
  constexpr std::size_t kBytes = 5 * kTileBytes;
  CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(kBytes)));
  cuda::launch("attention_async", ctx,
               {dim3(unsigned(a.tokens) / kTileRows, unsigned(a.head_count())), kThreads, kBytes}, kernel, a);
}

}  // namespace cbq::ladder
