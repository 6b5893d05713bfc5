// Writers of checkpoints. Each streams from the run's store and the source checkpoint, one shard in memory at a time,
// and writes config.json last: an interrupted export leaves no folder that looks whole.
#pragma once

#include "models/model.h"
#include "quant/store.h"

namespace cbq {

// Writes OUTPUT as a folder that stands alone: shards with index, tokenizer files byte for byte, generation_config.json
// and the like, config.json. compressed_tensors: integers packed, format pack-quantized; dense: de-quantised weights in
// the source's dtype; gguf: the one file model.gguf (export_gguf.h). `specs` are those of the run.
void export_checkpoint(Context& ctx, const Model& source, const RunStore& store, const std::vector<BlockSpec>& specs,
                       const RunConfig& config);

}  // namespace cbq
