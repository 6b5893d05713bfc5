// What the export formats share: shards that are written in one pass, and what a format decides.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "quant/quant_block.h"

namespace cbq {

constexpr std::int64_t kShardBytes = 5'000'000'000;  // most tensor bytes of a file, but for a tensor larger than that

// Tensors, given in a fixed order, spread over the files model-0000i-of-0000N.safetensors and their index, or the one
// file model.safetensors when all fit.
class ShardWriter {
 public:
  ShardWriter(std::filesystem::path folder, std::vector<TensorSpec> specs, std::int64_t shard_bytes);
  // The next tensor, whole; its bytes go straight to disk.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // After the last tensor: writes the index.
  void finish();

 private:
  struct Shard {
    std::string file_name;
    std::vector<TensorSpec> specs;
  };
  void next_shard();

  std::filesystem::path folder_;
  std::vector<Shard> shards_;
  std::optional<SafetensorsWriter> writer_;
  std::size_t opened_ = 0;   // shards begun; the last of them is open
  std::size_t written_ = 0;  // tensors written to the open shard
  std::int64_t total_bytes_ = 0;
};

// What config.json says about the quantisation of a model.
struct ExportedModel {
  const ModelConfig& config;
  const std::vector<BlockSpec>& specs;  // per block
  ActivationSpec kv_cache;
  nlohmann::ordered_json activation_factors;  // by name of the linear layer, where it is not 1
};

// A way to write the quantised linear layers.
class ExportFormat {
 public:
  virtual ~ExportFormat() = default;
  // The tensors that stand for NAME.weight of `shape` (out, in), in the order in which `write` gives them. `stored`:
  // dtype of the checkpoint.
  virtual std::vector<TensorSpec> tensors(const std::string& name, const Shape& shape, const WeightSpec& spec,
                                          DType stored) const = 0;
  virtual void write(Context& ctx, ShardWriter& shards, const std::string& name, const HardWeight& hard,
                     DType stored) const = 0;
  // Adds to the model's config.json what readers need to know.
  virtual void describe(nlohmann::ordered_json& config, const ExportedModel& model) const = 0;
};

std::unique_ptr<ExportFormat> compressed_tensors_format();
std::unique_ptr<ExportFormat> dense_format();

// What only this program computes, as an object: "kv_bits" and "kv_symmetric"; "activation_factor", {layer: factor on
// the dynamic range}; and "activations", [{"num_bits", "symmetric", "targets": [layer]}], for the layers of `listed`.
// Empty parts are left out.
enum class ListedActivations { all, of_dense_weights };
nlohmann::ordered_json extra_quantisers(const ExportedModel& model, ListedActivations listed);

// Calls visit(name of the linear layer, spec) for all linear layers of all blocks, in the order of execution.
template <class Visit>
void for_each_linear(const ExportedModel& model, const Visit& visit) {
  for (std::int64_t layer = 0; layer < model.config.layers; ++layer)
    for (const LinearRole role : linear_roles(model.config.family))
      visit(linear_name(model.config, layer, role), model.specs.at(std::size_t(layer))[std::size_t(role)]);
}

}  // namespace cbq
