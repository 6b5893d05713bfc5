// One GGUF file of a quantised model of family llama, for llama.cpp. docs/gguf.md says what is exact.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "core/ggml_blocks.h"
#include "models/model.h"
#include "quant/quant_block.h"

namespace cbq {

inline constexpr const char* kGgufFile = "model.gguf";

// Block i of a run, hardened.
using HardBlocks = std::function<HardBlock(std::int64_t)>;

// The tensor type of a weight (out, in) in a checkpoint of `stored`. With q and z of b bits:
//   q - z in [-8, 7]: Q4_0     b <= 3, and b = 4 symmetric
//   b = 4 asymmetric: Q4_1     m = -z s is rounded to f16
//   q - z in [-128, 127]: Q8_0     b = 5, 6, and b = 8 symmetric
//   rows that are no whole blocks of 32, and b = 16: the float type of `stored`, de-quantised
GgmlType gguf_type(const WeightSpec& spec, const Shape& weight, DType stored);

// Error{bad_input} unless a GGUF file can carry the model: names what it cannot, and the formats that can. Refused are
// other families, float64, quantised activations and caches, asymmetric 8-bit weights, and groups of no whole blocks.
void require_gguf(const ModelConfig& config, const std::vector<BlockSpec>& specs, const ActivationSpec& kv_cache);

// Writes `file` from the checkpoint, its tokenizer files and the blocks of the run, one block in memory at a time. The
// steps become f16. Errors: as require_gguf and gguf_vocabulary; failure: a step beyond f16, a block of another run.
void export_gguf(Context& ctx, const Model& source, const HardBlocks& blocks, const std::vector<BlockSpec>& specs,
                 const std::filesystem::path& file);

}  // namespace cbq
