#include "cuda/matmul_choice.h"

#include <cmath>
#include <cstdint>

namespace cbq::cuda {
namespace {

// TFLOP/s of an H200 at 700 W in calls that follow one another, divided by the filled share of the last wave: medians
// over the products of LLaMA-7B, 30B and 65B with 2,048 tokens. 0: not among the proposals there.
struct TileRates {
  cublasLtMatmulTile_t tile;
  double forward;          // y = x w^T
  double input_gradient;   // dx = dy w
  double weight_gradient;  // dw = dy^T x
};
constexpr TileRates kRates[] = {
    {CUBLASLT_MATMUL_TILE_256x128, 700, 712, 674}, {CUBLASLT_MATMUL_TILE_128x256, 698, 702, 664},
    {CUBLASLT_MATMUL_TILE_168x128, 695, 0, 0},     {CUBLASLT_MATMUL_TILE_128x160, 670, 700, 697},
    {CUBLASLT_MATMUL_TILE_128x128, 700, 685, 666}, {CUBLASLT_MATMUL_TILE_320x128, 680, 686, 656},
    {CUBLASLT_MATMUL_TILE_192x192, 655, 665, 637}, {CUBLASLT_MATMUL_TILE_192x128, 650, 670, 635},
    {CUBLASLT_MATMUL_TILE_128x192, 625, 650, 640},
};

double rate(const cublasLtMatmulHeuristicResult_t& proposal, Trans trans_a, Trans trans_b) {
  std::uint32_t tile = 0;
  std::size_t written = 0;
  if (cublasLtMatmulAlgoConfigGetAttribute(&proposal.algo, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof(tile),
                                           &written) != CUBLAS_STATUS_SUCCESS)
    return 0;
  for (const TileRates& rates : kRates) {
    if (std::uint32_t(rates.tile) != tile) continue;
    const double full = proposal.wavesCount / std::ceil(proposal.wavesCount);
    if (trans_a == Trans::yes) return trans_b == Trans::no ? full * rates.weight_gradient : 0;
    return full * (trans_b == Trans::yes ? rates.forward : rates.input_gradient);
  }
  return 0;
}

}  // namespace

const cublasLtMatmulHeuristicResult_t& best_at_power_limit(std::span<const cublasLtMatmulHeuristicResult_t> proposals,
                                                           Trans trans_a, Trans trans_b) {
  const cublasLtMatmulHeuristicResult_t* best = &proposals.front();
  double best_rate = rate(*best, trans_a, trans_b);
  if (best->wavesCount < 1 || best_rate == 0) return *best;
  for (const auto& proposal : proposals.subspan(1)) {
    const double its_rate = rate(proposal, trans_a, trans_b);
    if (its_rate > best_rate) best = &proposal, best_rate = its_rate;
  }
  return *best;
}

}  // namespace cbq::cuda
