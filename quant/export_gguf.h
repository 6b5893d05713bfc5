// One GGUF file of a quantised model of family llama, for llama.cpp. docs/gguf.md says what is exact.
#pragma once

#include <filesystem>

#include "quant/export.h"

namespace cbq {

inline constexpr const char* kGgufFile = "model.gguf";

// Writes `file` from the checkpoint, its tokenizer files and the blocks, one block in memory at a time; gguf_obstacle
// found none. Errors: as gguf_vocabulary; failure: a step that is no f16 number, a block of another run.
void export_gguf(Context& ctx, const ExportSource& source, const std::filesystem::path& file);

}  // namespace cbq
