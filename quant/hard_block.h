// Hardened blocks as files, and numbers in the narrow types that files keep them in.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <vector>

#include "quant/quant_block.h"

namespace cbq {

// The elements of x (float) in `dtype`; nothing when a value changes on the way there.
std::optional<std::vector<std::byte>> exact_bytes(Context& ctx, const Tensor& x, DType dtype);

// The codes as the words (out, ceil(in bits / 32)) that files hold, packed where they are.
Tensor packed(Context& ctx, const HardWeight& hard);

// The block as one safetensors file: codes packed, every other tensor in the narrowest of `stored` (the checkpoint's
// dtype), f32 and its own dtype that holds it exactly. Equal blocks give equal bytes.
void write_hard_block(Context& ctx, const std::filesystem::path& path, const HardBlock& block, DType stored);
// The same block, bit for bit, in the dtype `compute`. Errors (bad_input): not such a file, or one of another model.
HardBlock read_hard_block(Context& ctx, const std::filesystem::path& path, const ModelConfig& config, DType compute);

}  // namespace cbq
