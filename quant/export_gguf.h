// One GGUF file of a quantised model of family llama, for llama.cpp. docs/gguf.md says what is exact.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "models/model.h"
#include "quant/quant_block.h"

namespace cbq {

inline constexpr const char* kGgufFile = "model.gguf";

// Block i of a run, hardened.
using HardBlocks = std::function<HardBlock(std::int64_t)>;

// Writes `file` from the checkpoint, its tokenizer files and the blocks of the run, one block in memory at a time. The
// steps become f16. Errors: as require_gguf and gguf_vocabulary; failure: a step beyond f16, a block of another run.
void export_gguf(Context& ctx, const Model& source, const HardBlocks& blocks, const std::vector<BlockSpec>& specs,
                 const std::filesystem::path& file);

}  // namespace cbq
