// Weights with a low-rank offset a1 a2 on tensor cores: the products with a1 and a2 cost a hundredth of an instruction
// a weight and rank there, 15 instructions a weight at rank 5 elsewhere.
#pragma once

#include "cuda/backend.h"

namespace cbq::cuda {

// Whether the functions below take a quantiser: bf16 weights, factors of rank 1 to 8, columns and groups in
// multiples of 8 and 32. Forward, codes and backward all ask this one question, so that they decide alike.
bool takes_factors(const WeightQuantiser& quantiser);

// The entries of core/kernels.h for such quantisers.
void factor_values(Context& ctx, View w_hat, View integers, const WeightQuantiser& quantiser);
void factor_codes(Context& ctx, View codes, const WeightQuantiser& quantiser);
void factor_gradients(Context& ctx, const WeightQuantiserGrads& grads, View dw_hat, const WeightQuantiser& quantiser);

}  // namespace cbq::cuda
