// Coarse-to-fine preprocessing (CFP): outliers are found, weights truncated, activation channels scaled, before any
// optimisation. docs/method.md, "Preprocessing".
#pragma once

#include <array>
#include <map>
#include <span>

#include "quant/config.h"

namespace cbq {

struct CfpOptions {
  CfpPreset preset = CfpPreset::paper;
  double lambda1 = 1.5, lambda2 = 1;
};

// The split of ascending magnitudes: all values above `threshold` are outliers; infinity when there is none.
// `reserved_max` is the largest value kept.
struct OutlierSplit {
  double threshold, reserved_max;
  std::int64_t outliers;
};
OutlierSplit detect_outliers(std::span<const float> ascending_magnitudes, const CfpOptions& options);

// Per column minimum and maximum of what each site of a block reads, collected over the calibration samples.
struct ActivationRange {
  std::vector<float> low, high;  // (in), empty before the first observation
};
using BlockRanges = std::array<ActivationRange, kSites>;

// Passes through to `inner` and widens `ranges` by what the sites read.
class RangeObserver final : public BlockLayers {
 public:
  RangeObserver(BlockLayers& inner, BlockRanges& ranges) : inner_(inner), ranges_(ranges) {}
  std::vector<Var> linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) override;
  const Norm& norm(NormRole role) const override { return inner_.norm(role); }
  Var cached(Context& ctx, const Var& kv) override { return inner_.cached(ctx, kv); }

 private:
  BlockLayers& inner_;
  BlockRanges& ranges_;
};

// What CFP does to a block: column scales per site (empty: none) and the truncation level per layer (infinity: none).
struct CfpPlan {
  std::array<std::vector<float>, kSites> site_scale;
  std::array<double, kLinearRoles> truncation;
  // What was found in the weights, for the report and no part of the state: how many are truncated, the largest one.
  std::array<std::int64_t, kLinearRoles> outliers{};
  std::array<double, kLinearRoles> largest{};
  CfpPlan() { truncation.fill(std::numeric_limits<double>::infinity()); }

  std::map<std::string, Tensor> state(Context& ctx) const;
  static CfpPlan from_state(Context& ctx, const std::map<std::string, Tensor>& state);
};
CfpPlan plan_cfp(Context& ctx, const ModelConfig& config, const BlockWeights& weights, const BlockRanges& ranges,
                 const RunConfig& run);

// Whether a site's scale can be folded into the layer before it (not for OPT-350M's norms, nor through GELU).
bool can_fold(const ModelConfig& config, Site site);
// Divides what produces the site's input by s and multiplies the columns that read it: the block computes the same
// function. Norms and biases are rounded to `stored`, as they will be on disk. Makes new tensors; `weights` may share
// theirs.
void apply_cfp(Context& ctx, const ModelConfig& config, BlockWeights& weights, const CfpPlan& plan, DType stored);

}  // namespace cbq
