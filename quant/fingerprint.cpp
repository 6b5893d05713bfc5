#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>

#include "core/hash.h"
#include "quant/export.h"
#include "quant/store.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kHashedWhole = std::int64_t(1) << 30;  // bytes
constexpr std::int64_t kSamples = 64, kSampleBytes = 1 << 20;

// Keys that leave the result as it is, and the paths whose contents are hashed.
constexpr std::array<std::string_view, 8> kFreeKeys = {"threads", "offload",        "output_dir", "eval",
                                                       "export",  "max_shard_size", "model",      "dataset"};
// Everything that decides which tokens a text becomes, and the shape of the model.
constexpr std::array<std::string_view, 8> kSmallFiles = {
    "config.json",       "tokenizer.json",          "tokenizer.model", "tokenizer_config.json",
    "added_tokens.json", "special_tokens_map.json", "vocab.json",      "merges.txt"};

// A file of more than 1 GiB is told apart by its size, its first bytes (header and first tensors) and samples at equal
// distances up to its end.
std::uint64_t sampled_hash(const fs::path& path) {
  const MappedFile file(path);
  const std::int64_t count = std::ssize(file.bytes());
  Hash64 hash;
  hash.update(std::as_bytes(std::span(&count, 1)));
  for (std::int64_t i = 0; i < kSamples; ++i) {
    const std::int64_t begin = (count - kSampleBytes) / (kSamples - 1) * i;
    hash.update(file.bytes().subspan(std::size_t(begin), std::size_t(kSampleBytes)));
    file.release(begin, kSampleBytes);
  }
  hash.update(file.bytes().last(std::size_t(kSampleBytes)));
  return hash.digest();
}

void add(Hash64& hash, const std::string& label, const FileRecord& file) {
  hash.update(concat(label, ' ', file.bytes, ' ', file.hash, '\n'));
}

bool decides_result(const std::string& name) {
  return std::ranges::find(kSmallFiles, name) != kSmallFiles.end() || name.ends_with(".safetensors");
}

std::vector<FileRecord> files_of(const fs::path& model) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator entry(model, error), end; !error && entry != end; entry.increment(error))
    if (decides_result(entry->path().filename().string())) paths.push_back(entry->path());
  require_input(!error, model.string(), ": cannot list the folder: ", error.message());
  std::ranges::sort(paths);
  std::vector<FileRecord> files;
  for (const fs::path& path : paths) files.push_back(file_record(path));
  return files;
}

}  // namespace

FileRecord file_record(const fs::path& path) {
  std::error_code error;
  const auto bytes = fs::file_size(path, error);
  require_input(!error, path.string(), ": cannot read its size: ", error.message());
  const std::uint64_t digest = bytes <= std::uintmax_t(kHashedWhole) ? hash_file(path) : sampled_hash(path);
  return {path, std::int64_t(bytes), hash_text(digest)};
}

Fingerprint fingerprint(const RunConfig& config) {
  const nlohmann::json all = to_json(config);
  Fingerprint result;
  result.config = nlohmann::json::object();
  for (const auto& [key, value] : all.items())
    if (std::ranges::find(kFreeKeys, key) == kFreeKeys.end()) result.config[key] = value;
  for (const Export format : config.exports)
    result.export_format += (result.export_format.empty() ? "" : ", ") + std::string(export_format(format).name);
  result.model_files = files_of(config.model);
  Hash64 model, dataset;
  for (const FileRecord& file : result.model_files) add(model, file.path.filename().string(), file);
  result.model = hash_text(model.digest());
  for (const fs::path& path : config.dataset) {
    result.dataset_files.push_back(file_record(path));
    add(dataset, "", result.dataset_files.back());
  }
  result.dataset = hash_text(dataset.digest());
  return result;
}

}  // namespace cbq
