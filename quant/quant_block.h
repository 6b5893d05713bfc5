// A block whose linear layers are quantised and learned: the student of cross-block reconstruction.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <optional>

#include "quant/rounding.h"

namespace cbq {

// The entries of a saved state whose names begin with `prefix`, without it.
std::map<std::string, Tensor> with_prefix(const std::map<std::string, Tensor>& all, const std::string& prefix);

using BlockSpec = std::array<LinearSpec, kLinearRoles>;

// A block hardened: what is written to disk.
struct HardBlock {
  BlockWeights weights;                                      // folded norms, biases, and 16-bit layers alone
  std::array<std::optional<HardWeight>, kLinearRoles> hard;  // empty for 16-bit layers
  BlockSpec spec;
  std::array<double, kSites> activation_factor{1, 1, 1, 1};
  ActivationSpec kv_cache;
};
// The layers it computes with, in the dtype of its norms: quantised ones de-quantised as the checkpoint's readers do.
std::unique_ptr<DenseBlock> dense_block(Context& ctx, const ModelConfig& config, const HardBlock& hard);

class QuantBlock final : public BlockLayers {
 public:
  // `weights` are full precision, already preprocessed.
  QuantBlock(Context& ctx, const ModelConfig& config, BlockWeights weights, const BlockSpec& spec,
             ActivationSpec kv_cache, const RoundingOptions& options, Rng& rng);

  // Sets what the next forwards do: record on `tape` (null: nothing is learned) with soft or hard rounding, soft ones
  // with a regulariser (core/kernel_args.h) where it is not empty.
  void use(Tape* tape, Hardness hardness, Tensor regulariser = {}) {
    tape_ = tape, hardness_ = hardness, regulariser_ = std::move(regulariser);
  }

  std::vector<Var> linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) override;
  const Norm& norm(NormRole role) const override {
    return role == NormRole::attention ? weights_.attention_norm : weights_.mlp_norm;
  }
  Var cached(Context& ctx, const Var& kv) override;

  HardBlock harden(Context& ctx, DType stored) const;

  std::vector<Parameter*> rounding_parameters();
  std::vector<Parameter*> scale_parameters();
  std::vector<Parameter*> activation_parameters();  // one factor per site with quantised activations

  std::map<std::string, Tensor> state();
  void restore(Context& ctx, const std::map<std::string, Tensor>& state);

  // WeightRounding::start_from_gptq of a layer, whose own weight is let go.
  void start_from_gptq(Context& ctx, LinearRole role, Tensor w);
  // Called with what the layers of each site read, activation quantiser included.
  std::function<void(Site, const Tensor& x)> observer;
  const WeightRounding* rounding(LinearRole role) const {
    const auto& r = roundings_[std::size_t(role)];
    return r ? &*r : nullptr;
  }
  const BlockWeights& weights() const { return weights_; }

 private:
  // What the product of `role` multiplies by now.
  Var weight(Context& ctx, LinearRole role, ops::Form form) const;
  // Whether that product, with an input of `rows` rows, is one of integers: where both sides have them and the device
  // multiplies them faster.
  ops::Form form(const Context& ctx, LinearRole role, std::int64_t rows) const;

  const ModelConfig& config_;
  BlockWeights weights_;
  BlockSpec spec_;
  ActivationSpec kv_cache_;
  StepSizes activation_steps_;
  RoundingStart rounding_start_;
  std::array<std::optional<WeightRounding>, kLinearRoles> roundings_;
  std::array<Parameter, kSites> factors_;
  Tape* tape_ = nullptr;
  Hardness hardness_ = Hardness::soft;
  Tensor regulariser_;
};

}  // namespace cbq
