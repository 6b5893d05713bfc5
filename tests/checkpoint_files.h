// Checkpoint folders for tests: tensors and config.json written where a test wants them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/json.h"
#include "core/safetensors.h"

namespace cbq {

struct StoredTensor {
  TensorSpec spec;
  std::string bytes;
};

template <class T>
StoredTensor stored(const std::string& name, DType dtype, const Shape& shape, const std::vector<T>& values) {
  return {{name, dtype, shape}, {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)}};
}

inline void write_shard(const std::filesystem::path& file, const std::vector<StoredTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const StoredTensor& t : tensors) specs.push_back(t.spec);
  SafetensorsWriter writer(file, specs);
  for (const StoredTensor& t : tensors) writer.write(t.spec.name, std::as_bytes(std::span(t.bytes)));
  writer.finish();
}

// A copy of one of the models under tests/data/models, with a merge patch (RFC 7386: null removes) on its config.json.
inline void copy_model(const std::string& name, const std::filesystem::path& folder, const nlohmann::json& patch) {
  std::filesystem::copy(std::filesystem::path("tests/data/models") / name, folder,
                        std::filesystem::copy_options::recursive);
  nlohmann::json config = parse_json_file(folder / "config.json");
  config.merge_patch(patch);
  write_file(folder / "config.json", config.dump());
}

}  // namespace cbq
