// GPTQ (arXiv 2210.17323), which reconstructs one layer at a time in closed form: a baseline, and a start for what is
// learned.
#pragma once

#include <span>

#include "quant/quant_block.h"
#include "quant/streams.h"

namespace cbq {

struct GptqOptions {
  bool act_order = true;  // columns in descending order of the Hessian's diagonal; groups keep their columns
  double damping =
      0.01;  // added to the diagonal, as a share of its mean; raised tenfold while H is not positive definite
};

// Blocks `first` and later of a window start from GPTQ, each on what the blocks before it make of `inputs`, the
// quantised stream before the window, as they stand, hardened: every weight is replaced by the one that GPTQ rounds to
// nearest, on the grid that the block hardens to. Site by site in the order of execution, each site's
// Hessian 2/n sum x x^T is taken from the first `samples` inputs, passed through the sites quantised before it.
void start_from_gptq(Context& ctx, const ModelConfig& config, std::span<QuantBlock* const> window, std::size_t first,
                     const Stream& inputs, std::int64_t samples, const GptqOptions& options);

}  // namespace cbq
