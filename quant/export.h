// Quantised models as files. The formats are a table: their names, what they can hold, how they are written, and who
// reads them. A format writes one block at a time, and what makes a folder look whole comes last: an interrupted export
// leaves no folder that looks whole.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/model.h"
#include "quant/config.h"
#include "quant/store.h"

namespace cbq {

// A quantised model as integers: what every format is written from. `checkpoint` has the tensors outside the blocks and
// the files beside them; `block` gives the hardened blocks, each once and in order.
struct ExportSource {
  const Checkpoint& checkpoint;
  const ModelConfig& config;
  std::vector<BlockSpec> specs;
  std::function<HardBlock(std::int64_t layer)> block;
};
// The blocks that a run has finished.
ExportSource finished_blocks(Context& ctx, const Model& source, const RunStore& store,
                             const std::vector<BlockSpec>& specs);
// The integers of a checkpoint of any packed format, this program's own or another's. Errors (bad_input): weights that
// are not stored as integers, a GGUF file, groups in another order than the columns.
ExportSource packed_blocks(Context& ctx, const Checkpoint& checkpoint, const ModelConfig& config);

struct ExportFormat {
  Export id;
  const char* name;  // in `export` and --format
  // The first thing of the model that the format has no place for, such as "5-bit weights (model.layers.0 ...)"; "".
  // `kv_bits`: of the cache.
  std::string (*obstacle)(const ModelConfig& model, const std::vector<BlockSpec>& specs, int kv_bits);
  // Writes into the folder, which exists. `shard_bytes`: most tensor bytes of a file.
  void (*write)(Context& ctx, const ExportSource& source, const std::filesystem::path& folder,
                std::int64_t shard_bytes);
  // Which programs run such a model and what they need, and the command that loads it; lines of text.
  std::vector<std::string> (*readers)(const std::filesystem::path& folder, const std::vector<BlockSpec>& specs);
};
std::span<const ExportFormat> export_formats();
const ExportFormat& export_format(Export id);

// Name and place of the export, and what `readers` says, as lines of text.
std::string export_text(Export format, const std::filesystem::path& folder, const std::vector<BlockSpec>& specs);

// Error{bad_input} where one of the formats cannot hold the model: says what it has no place for, and which can.
void require_exportable(const std::vector<Export>& formats, const ModelConfig& model,
                        const std::vector<BlockSpec>& specs, int kv_bits);

// Where format number `i` of a run goes: OUTPUT itself for the first, OUTPUT/NAME for the others.
std::filesystem::path export_folder(const std::filesystem::path& output, const std::vector<Export>& formats,
                                    std::size_t i);

// Writes the model into FOLDER, replacing what an earlier export left there.
void export_model(Context& ctx, const ExportSource& source, Export format, const std::filesystem::path& folder,
                  std::int64_t shard_bytes);

// What an earlier export left, in another format perhaps.
void remove_earlier_export(const std::filesystem::path& folder);

// A folder of safetensors that stands alone: shards with index, tokenizer files byte for byte, generation_config.json
// and the like, config.json last.
class LayerFormat;
void write_checkpoint(Context& ctx, const ExportSource& source, const LayerFormat& format,
                      const std::filesystem::path& folder, std::int64_t shard_bytes);

}  // namespace cbq
