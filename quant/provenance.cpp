#include "quant/provenance.h"

#include <algorithm>

#include "core/version.h"
#include "quant/export.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

bool holds_weights(const fs::path& file) {
  return file.extension() == ".safetensors" || file.extension() == ".gguf";
}

std::vector<FileRecord> records(const std::vector<fs::path>& paths) {
  std::vector<FileRecord> files;
  for (const fs::path& path : paths) files.push_back(file_record(path));
  return files;
}

std::vector<fs::path> weight_files(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && holds_weights(entry.path())) paths.push_back(entry.path());
  std::ranges::sort(paths);
  return paths;
}

std::int64_t weight_bytes(const std::vector<FileRecord>& files) {
  std::int64_t bytes = 0;
  for (const FileRecord& file : files)
    if (holds_weights(file.path)) bytes += file.bytes;
  return bytes;
}

Json file_list(const std::vector<FileRecord>& files) {
  Json list = Json::array();
  for (const FileRecord& file : files)
    list.push_back({{"path", file.path.string()}, {"bytes", file.bytes}, {"hash", file.hash}});
  return list;
}

// Bits a weight of the linear layers takes: integers, and a step size in the checkpoint's type and a zero point of as
// many bits for each group.
double bits_per_weight(const ModelConfig& model, const std::vector<BlockSpec>& specs) {
  double bits = 0, weights = 0;
  const int stored = 8 * int(size_of(model.dtype));
  for (const BlockSpec& block : specs)
    for (const LinearRole role : linear_roles(model.family)) {
      const WeightSpec& spec = block[std::size_t(role)].weight;
      const Shape shape = weight_shape(model, role);
      const int of_group = stored + (spec.symmetry == Symmetry::asymmetric ? spec.bits : 0);
      weights += double(shape.count());
      bits += spec.quantised() ? double(shape.count()) * spec.bits + double(spec.grid_shape(shape).count()) * of_group
                               : double(shape.count()) * stored;
    }
  return bits / weights;
}

}  // namespace

void add_provenance(Json& report, const Context& ctx, const RunConfig& config, const ModelConfig& model,
                    const std::vector<BlockSpec>& specs, const Fingerprint& read) {
  std::vector<FileRecord> written;
  Json exports = Json::array();
  for (std::size_t i = 0; i < config.exports.size(); ++i) {
    const auto files = records(weight_files(export_folder(config.output_dir, config.exports, i)));
    exports.push_back({{"format", export_format(config.exports[i]).name}, {"bytes", weight_bytes(files)}});
    written.insert(written.end(), files.begin(), files.end());
  }
  report["size"] = {{"bits_per_weight", bits_per_weight(model, specs)},
                    {"stored_bits", 8 * size_of(model.dtype)},
                    {"source_bytes", weight_bytes(read.model_files)},
                    {"bytes", exports[0]["bytes"]},
                    {"exports", exports}};
  report["versions"] = {{"program", program_version()},
                        {"commit", program_commit()},
                        {"compiler", program_compiler()},
                        {"backend", ctx.device == Device::cuda ? "cuda" : "cpu"},
                        {"device", ctx.name},
                        {"compute_dtype", name(compute_dtype(config.precision, config.device))}};
  report["files"] = {{"model", file_list(read.model_files)},
                     {"dataset", file_list(read.dataset_files)},
                     {"eval", file_list(records(config.eval.data))},
                     {"output", file_list(written)}};
}

}  // namespace cbq
