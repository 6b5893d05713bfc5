// Which of cuBLASLt's proposals for a product of bf16 matrices is fastest where power is the limit.
#pragma once

#include <span>

#include <cublasLt.h>

#include "core/kernel_args.h"

namespace cbq::cuda {

// cuBLASLt orders its proposals by an estimate for one product at full clock. In a training step products follow one
// another, an H200 stays at its power limit and runs at 1.45 to 1.6 of 1.98 GHz, and what decides is the energy of a
// product, which depends on the tile. Each proposal whose tile was measured there counts as that tile's rate times the
// filled share of the last wave, and the best one is chosen. The first of all is taken where it leaves multiprocessors
// idle, so that power is no limit, or where its tile was not measured. A rule and no measurement on the spot: the
// choice, and so the bits of every result, are the same in every run.
// `proposals` is not empty.
const cublasLtMatmulHeuristicResult_t& best_at_power_limit(std::span<const cublasLtMatmulHeuristicResult_t> proposals,
                                                           Trans trans_a, Trans trans_b);

}  // namespace cbq::cuda
