// Which quantisation schemes a GGUF file can carry, and as what.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "core/ggml_blocks.h"
#include "quant/quant_block.h"

namespace cbq {

// The tensor type of a weight (out, in) in a checkpoint of `stored`. With q and z of b bits:
//   q - z in [-8, 7]: Q4_0     b <= 3, and b = 4 symmetric
//   b = 4 asymmetric: Q4_1     m = -z s is rounded to f16
//   q - z in [-128, 127]: Q8_0     b = 5, 6, and b = 8 symmetric
//   rows that are no whole blocks of 32, and b = 16: the float type of `stored`, de-quantised
GgmlType gguf_type(const WeightSpec& spec, const Shape& weight, DType stored);

// The first thing of the model that a GGUF file has no place for: other families, float64, quantised activations and
// caches, asymmetric 8-bit weights, and groups of no whole blocks; "".
std::string gguf_obstacle(const ModelConfig& config, const std::vector<BlockSpec>& specs, int kv_bits);

// Whether Q4_1 is among the types, whose offsets are rounded.
bool holds_rounded_offsets(const std::vector<BlockSpec>& specs);

// The weight as blocks of `type`, one of the quantised ones gguf_type gives; row r of the file is row row_of(r) of the
// weight. Error failure: a step that is no f16 number, with `name`.
std::vector<std::byte> gguf_blocks(Context& ctx, const HardWeight& hard, GgmlType type, const std::string& name,
                                   const std::function<std::int64_t(std::int64_t)>& row_of);

}  // namespace cbq
