// What the families share inside a block, and the block of each.
#pragma once

#include "models/block.h"

namespace cbq {

// Attention over x (R, C), already normed: q, k, v, rotary positions where the family has them, the cache where the
// sequence has one, and the output projection -> (R, C).
Var attend(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence);

Var llama_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence);
Var opt_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence);

}  // namespace cbq
