// The GPU's rows of bench/ops: kernels in bf16 at the shapes of LLaMA-65B, one sequence of 2,048 tokens.
#pragma once

#include "bench/rows.h"

namespace cbq::bench {

constexpr std::int64_t kTokens65B = 2048, kHidden65B = 8192, kFfn65B = 22016, kHeads65B = 64, kHeadDim65B = 128;

// Weights (out, in) of the linear layers of one block: q, k, v, o, gate, up, down.
inline std::vector<Shape> weights_65b() {
  constexpr std::int64_t kC = kHidden65B, kF = kFfn65B;
  return {{kC, kC}, {kC, kC}, {kC, kC}, {kC, kC}, {kF, kC}, {kF, kC}, {kC, kF}};
}

void add_memory_rows(GpuRows& rows);   // norms, rotation, gates, losses, activation quantisers, AdamW: bound by memory
void add_weight_rows(GpuRows& rows);   // weight quantisers, all linear layers of two blocks
void add_product_rows(GpuRows& rows);  // attention, and the products of the linear layers: bound by tensor cores

}  // namespace cbq::bench
