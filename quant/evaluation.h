// What a run measures at its end: full precision, round-to-nearest and the result side by side, and what each writes.
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <stop_token>

#include "models/generate.h"
#include "models/perplexity.h"
#include "quant/store.h"

namespace cbq {

// The model as it is and as the store holds it, with what both need.
struct EvaluatedModel {
  const Model& model;
  const RunConfig& config;
  const std::vector<BlockSpec>& specs;
  const RunStore& store;
};

// results {full_precision, nearest, quantised: perplexity, kl (nats a token), top1 (share), tokens} and
// after_block {nearest, quantised: one {kl, error} a block}, the distance of the hidden states behind each block from
// those of full precision: kl the mean over tokens of KL(softmax x || softmax x_q) over the hidden dimension, error
// |x_q - x| / |x|. The three models walk block by block, so each block is loaded once. `nearest` is round-to-nearest
// from the mse start. Throws Interrupted when `stop` is requested.
nlohmann::ordered_json evaluate_run(Context& ctx, const EvaluatedModel& evaluated, const Windows& windows,
                                    std::FILE* log, const std::stop_token& stop);

// [{prompt, before, after}], greedy; or {prompt, skipped: why} where the prompt cannot be continued, and for all of
// them where the device does not hold a whole model at once.
nlohmann::ordered_json continue_prompts(Context& ctx, const EvaluatedModel& evaluated, const Tokenizer& tokenizer);

}  // namespace cbq
