// A checkpoint as a model: the parts outside the blocks are resident, blocks are loaded one at a time.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>

#include "models/block.h"
#include "models/weights.h"

namespace cbq {

// Everything that is not in a block. Vars, as in BlockWeights.
struct OuterWeights {
  Var embed_tokens;             // (V, E), E = hidden or, OPT, embed_dim
  Var embed_positions;          // (max_positions + 2, C), OPT only
  Var project_in, project_out;  // (C, E) and (E, C), OPT with E != C only
  Norm final_norm;              // empty where the config has none
  Var lm_head;                  // (V, E); the same Var as embed_tokens when tied
};

// ids (R) i32 in [0, V), R = batch * tokens, positions from `begin` -> (R, C), the residual stream in
// statistics_dtype of the model's type.
Var embed(Context& ctx, const ModelConfig& config, const OuterWeights& outer, const Tensor& ids, std::int64_t batch,
          std::int64_t begin);
// Final norm and projection, x (R, C) -> (R, E).
Var final_hidden(Context& ctx, const ModelConfig& config, const OuterWeights& outer, const Var& x);
// The vocabulary product on top of it -> (R, V). In f32 also of bf16 models: rounding logits, 1/16 where they are above
// 8, would show in perplexity and KL as if the model were worse.
Tensor logits(Context& ctx, const OuterWeights& outer, const Tensor& final_hidden);

class Model {
 public:
  // Reads config, opens the shards and loads the outer weights in `compute` (f32 or f64). Reads dense checkpoints and
  // those this program writes (compressed-tensors). Errors as Checkpoint and read_model_config.
  Model(Context& ctx, const std::filesystem::path& folder, DType compute = DType::f32);

  const std::filesystem::path& folder() const { return checkpoint_.folder(); }
  const ModelConfig& config() const { return config_; }
  const Checkpoint& checkpoint() const { return checkpoint_; }
  const OuterWeights& outer() const { return outer_; }
  DType compute() const { return compute_; }

  // Loads block i, de-quantised if packed, with the activation quantisers its file states. Pages of the memory map are
  // given back, so that resident memory follows the blocks in use.
  std::unique_ptr<DenseBlock> block(std::int64_t i) const;
  BlockWeights block_weights(std::int64_t i) const;
  // Starts to bring blocks begin .. end-1 in from disk, so that block() need not wait for them (Checkpoint::read_ahead).
  void read_ahead(std::int64_t begin, std::int64_t end) const;

 private:
  Context& ctx_;
  ModelConfig
      config_;  // read first: an architecture that is not supported is reported before anything about the shards
  Checkpoint checkpoint_;
  DType compute_;
  OuterWeights outer_;
};

// Supplies block i of a model whose outer weights are another's; called once per block, in order.
using BlockSource = std::function<std::unique_ptr<BlockLayers>(std::int64_t i)>;

}  // namespace cbq
