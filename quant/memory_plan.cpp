#include "quant/memory_plan.h"

#include <algorithm>

namespace cbq {
namespace {

constexpr std::int64_t kElement = 4;  // bytes: streams, weights and gradients are f32 on the CPU

struct BlockSize {
  std::int64_t weights = 0, largest = 0, outputs = 0, inputs = 0;  // elements; outputs and inputs summed over layers
};

BlockSize block_size(const ModelConfig& model) {
  BlockSize size;
  for (const LinearRole role : linear_roles(model.family)) {
    const Shape w = weight_shape(model, role);
    size.weights += w.count();
    size.largest = std::max(size.largest, w.count());
    size.outputs += w[0];
    size.inputs += w[1];
  }
  return size;
}

// Learned elements of a block: rounding parameters and, per group, one or two step sizes.
std::int64_t learned_elements(const RunConfig& config, const ModelConfig& model) {
  std::int64_t learned = 0;
  for (const LinearRole role : linear_roles(model.family)) {
    const Shape w = weight_shape(model, role);
    const std::int64_t groups = config.group_size < 0 ? w[0] : w.count() / config.group_size;
    switch (config.rounding) {
      case RoundingKind::nearest: learned += groups; break;
      case RoundingKind::lora:
      case RoundingKind::lora_ste: learned += config.rank * (w[0] + w[1]) + groups; break;
      case RoundingKind::dense:
      case RoundingKind::weights: learned += w.count() + groups; break;
      case RoundingKind::sign: learned += w.count() + 2 * groups; break;
    }
  }
  return learned;
}

}  // namespace

std::vector<MemoryItem> plan_memory(const RunConfig& config, const ModelConfig& model,
                                    std::int64_t calibration_samples) {
  const BlockSize block = block_size(model);
  const std::int64_t rows = config.batch_size * config.seqlen, hidden = model.hidden;
  const std::int64_t stream = calibration_samples * config.seqlen * hidden;
  const std::int64_t outer = model.vocab * hidden * (model.tied_head ? 1 : 2);
  std::vector<MemoryItem> items{{"embeddings and head", outer * kElement}};
  if (config.method != Method::cbq) {
    items.push_back({"one block, full precision and quantised", 2 * block.weights * kElement});
    if (config.method == Method::gptq || config.cfp != CfpPreset::off)
      items.push_back({"activation streams", 2 * stream * kElement});
    return items;
  }
  const std::int64_t blocks = std::min(config.window, model.layers);
  // Saved per block: the input of each layer and norm, q, k, v, the attention output, gate, up and their product; two
  // copies of the residual stream.
  const std::int64_t saved = rows * (block.inputs + block.outputs + 4 * hidden);
  const std::int64_t moments = config.rounding == RoundingKind::sign ? 1 : 4;  // value, gradient, and Adam's m and v
  items.push_back({"weights of the window", blocks * block.weights * kElement});
  items.push_back({"quantised weights of the window", blocks * block.weights * kElement});
  items.push_back(
      {"learned parameters, gradients, moments", blocks * moments * learned_elements(config, model) * kElement});
  items.push_back({"saved activations", blocks * saved * kElement});
  items.push_back({"largest weight gradient", 2 * block.largest * kElement});
  items.push_back({"activation streams", (config.homologous ? 3 : 2) * stream * kElement});
  return items;
}

std::int64_t total_bytes(const std::vector<MemoryItem>& items) {
  std::int64_t sum = 0;
  for (const MemoryItem& item : items) sum += item.bytes;
  return sum;
}

}  // namespace cbq
