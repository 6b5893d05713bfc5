// GPTQ (arXiv 2210.17323), the baseline that reconstructs one layer at a time in closed form.
#pragma once

#include "quant/quant_block.h"
#include "quant/streams.h"

namespace cbq {

struct GptqOptions {
  bool act_order = true;  // columns in descending order of the Hessian's diagonal; groups keep their columns
  double damping =
      0.01;  // added to the diagonal, as a share of its mean; raised tenfold while H is not positive definite
};

// Fixes the integers of all layers of the block, site by site in the order of execution, each site's Hessian 2/n sum x
// x^T taken from inputs that passed the sites quantised before it. `inputs` are the quantised stream's samples (T, C).
void gptq_block(Context& ctx, const ModelConfig& config, QuantBlock& block, const Stream& inputs, std::int64_t samples,
                DType stored, const GptqOptions& options);

}  // namespace cbq
