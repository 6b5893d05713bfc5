// Perplexity of a model, and its distance from a reference model, on windows of tokens.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "models/model.h"

namespace cbq {

using Windows = std::vector<std::vector<std::int32_t>>;  // equal lengths

// Means over windows (perplexity: exp of the mean over windows of the mean loss of the T-1 shifted targets; GPTQ's
// protocol) and over tokens (kl in nats, top1 as a fraction; against the reference at every position).
struct Quality {
  double perplexity;
  std::int64_t tokens;  // windows * T
  std::optional<double> kl, top1;
};

// done, total in block-windows.
using EvalProgress = std::function<void(std::int64_t done, std::int64_t total)>;

// The hidden states of all windows on their way through the blocks; before the first they are the embeddings.
class HiddenStates {
 public:
  HiddenStates(Context& ctx, const Model& model, const Windows& windows);
  // x = block(x) for all windows; `done` is told how many windows have passed since the last call.
  void advance(BlockLayers& block, const std::function<void(std::int64_t windows)>& done = {});
  // (B*T, C) each, some windows together; the last one may hold fewer.
  const std::vector<Tensor>& groups() const { return groups_; }
  // One (T, C) tensor a window.
  std::vector<Tensor> windows() const;

 private:
  Context& ctx_;
  const ModelConfig& config_;
  std::int64_t tokens_;
  Sequence sequence_;
  std::vector<Tensor> groups_;
};

// Hidden states of all windows after the last block, before the final norm; one (T, C) tensor a window.
std::vector<Tensor> hidden_states(Context& ctx, const Model& model, const BlockSource& blocks, const Windows& windows,
                                  const EvalProgress& progress = {});

// From hidden states; `reference` may be empty. Each side brings its own outer weights.
Quality measure(Context& ctx, const Model& model, const std::vector<Tensor>& hidden, const Windows& windows,
                const Model* reference_model = nullptr, const std::vector<Tensor>* reference = nullptr);

// Both in one: the model's own blocks.
Quality evaluate(Context& ctx, const Model& model, const Windows& windows, const EvalProgress& progress = {});

}  // namespace cbq
