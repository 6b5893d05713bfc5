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

// Tensors, given in a fixed order, spread over the files model-0000i-of-0000N.safetensors and their index, or the one
// file model.safetensors when all fit. `shard_bytes`: most tensor bytes of a file, but for a tensor larger than that.
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

// A way to write the quantised linear layers of a folder of safetensors.
class LayerFormat {
 public:
  virtual ~LayerFormat() = default;
  // The tensors that stand for NAME.weight of `shape` (out, in), in the order in which `write` gives them. `stored`:
  // dtype of the checkpoint.
  virtual std::vector<TensorSpec> tensors(const std::string& name, const Shape& shape, const LinearSpec& spec,
                                          DType stored) const = 0;
  virtual void write(Context& ctx, ShardWriter& shards, const std::string& name, const HardWeight& hard,
                     const LinearSpec& spec, DType stored) const = 0;
  // Adds to the model's config.json what readers need to know.
  virtual void describe(nlohmann::ordered_json& config, const ExportedModel& model) const = 0;
  // The file that repeats config.json's quantization_config, where the format has one; else "".
  virtual std::string config_file() const { return ""; }
};

std::unique_ptr<LayerFormat> compressed_tensors_format();
std::unique_ptr<LayerFormat> dense_format();
// v1 where every quantised layer is symmetric with 4 or 8 bits, v2 for other models.
std::unique_ptr<LayerFormat> gptq_format(const std::vector<BlockSpec>& specs);

// Zero points of `hard` as integers, (out, in/G). Error failure: one that is not in the grid, which no format can hold.
std::vector<std::uint8_t> zero_codes(Context& ctx, const std::string& name, const HardWeight& hard);

// What only this program computes, as an object: "kv_bits" and "kv_symmetric"; "activation_factor", {layer: factor on
// the dynamic range}; and "activations", [{"num_bits", "symmetric", "targets": [layer]}], for the layers of `listed`.
// Empty parts are left out.
enum class ListedActivations { all, of_dense_weights };
nlohmann::ordered_json extra_quantisers(const ExportedModel& model, ListedActivations listed);

// Calls visit(name of the linear layer, its role, spec) for all linear layers of all blocks, in the order of execution.
template <class Visit>
void for_each_linear(const ModelConfig& config, const std::vector<BlockSpec>& specs, const Visit& visit) {
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    for (const LinearRole role : linear_roles(config.family))
      visit(linear_name(config, layer, role), role, specs.at(std::size_t(layer))[std::size_t(role)]);
}

}  // namespace cbq
