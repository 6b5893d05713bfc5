// What the families share inside a block, and the block of each.
#pragma once

#include "models/block.h"

namespace cbq {

// x (R, C) plus attention over `in`, x normed: q, k, v, rotary positions where the family has them, the cache where the
// sequence has one, and the output projection.
Var attend(Context& ctx, const ModelConfig& config, BlockLayers& layers, const SiteInput& in, const Var& x,
           const Sequence& sequence);

Var llama_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence);
Var opt_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence);

}  // namespace cbq
