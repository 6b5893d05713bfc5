// The two activation streams of the method: what the blocks to come will read, for every calibration sample.
#pragma once

#include <functional>
#include <vector>

#include "models/perplexity.h"

namespace cbq {

using Stream = std::vector<Tensor>;  // one (T, C) tensor a sample

// The embeddings of all samples.
Stream embed_all(Context& ctx, const Model& model, const Windows& samples);
// Replaces every sample x by block(x); nothing is recorded. `layers` may observe what passes.
void advance(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Sequence& sequence, Stream& stream);

}  // namespace cbq
