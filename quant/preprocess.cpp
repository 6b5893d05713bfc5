#include "quant/preprocess.h"

#include <algorithm>
#include <cmath>

#include "core/kernels.h"
#include "models/weights.h"

namespace cbq {
namespace {

// The share of sorted values below each quartile of the coarse step (docs/method.md, "Preprocessing").
struct Quantiles {
  double low, high;
};
Quantiles quantiles(CfpPreset preset) {
  return preset == CfpPreset::paper ? Quantiles{0.25, 0.75} : Quantiles{0.2, 0.8};
}

constexpr double kMsmodelslimPower = 0.7;  // of a channel's range over the largest reserved one

// The value below which `share` of the ascending numbers lie, between two of them in proportion.
double quantile(std::span<const float> ascending, double share) {
  const double position = share * double(ascending.size() - 1);
  const auto below = std::size_t(position);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  return ascending[below] + (position - double(below)) * (double(ascending[above]) - ascending[below]);
}

// Channels of one side: the ratio of each outlier to the largest reserved magnitude, 1 for the others.
std::vector<double> outlier_ratios(const std::vector<float>& magnitudes, const CfpOptions& options) {
  std::vector<float> sorted = magnitudes;
  std::sort(sorted.begin(), sorted.end());
  const OutlierSplit split = detect_outliers(sorted, options);
  std::vector<double> ratios(magnitudes.size(), 1.0);
  for (std::size_t i = 0; i < magnitudes.size(); ++i)
    if (magnitudes[i] > split.threshold && split.reserved_max > 0) ratios[i] = magnitudes[i] / split.reserved_max;
  return ratios;
}

std::vector<float> site_scale(const ActivationRange& range, const CfpOptions& options) {
  const std::size_t n = range.low.size();
  std::vector<float> high(n), low(n), both(n), scale(n);
  for (std::size_t i = 0; i < n; ++i) {
    high[i] = std::max(range.high[i], 0.0f);
    low[i] = std::max(-range.low[i], 0.0f);
    both[i] = std::max(high[i], low[i]);
  }
  if (options.preset == CfpPreset::paper) {
    const auto ratios = outlier_ratios(both, options);
    for (std::size_t i = 0; i < n; ++i) scale[i] = float(std::sqrt(ratios[i]));
  } else {
    const auto above = outlier_ratios(high, options), below = outlier_ratios(low, options);
    for (std::size_t i = 0; i < n; ++i) scale[i] = float(std::pow(std::max(above[i], below[i]), kMsmodelslimPower));
  }
  return scale;
}

// Query heads that read one key head share its values: their channels get the largest scale among them.
void share_over_groups(std::vector<float>& scale, const ModelConfig& config) {
  const std::int64_t group = config.heads / config.kv_heads, dim = config.head_dim;
  for (std::int64_t kv = 0; kv < config.kv_heads; ++kv)
    for (std::int64_t d = 0; d < dim; ++d) {
      float largest = 1;
      for (std::int64_t h = kv * group; h < (kv + 1) * group; ++h)
        largest = std::max(largest, scale[std::size_t(h * dim + d)]);
      for (std::int64_t h = kv * group; h < (kv + 1) * group; ++h) scale[std::size_t(h * dim + d)] = largest;
    }
}

void divide(Context& ctx, Var& x, const Tensor& inverse, DType stored) {
  if (!x.value) return;
  Tensor y(ctx, x.shape(), x.value.dtype());
  ctx.kernels->mul(ctx, y, x.value, inverse);
  x.value = round_to(ctx, y, stored);
}

// Rows of the layer's weight and bias times `inverse`.
void divide_rows(Context& ctx, Linear& linear, const Tensor& inverse, DType stored) {
  Tensor w(ctx, linear.weight.shape(), linear.weight.value.dtype());
  ctx.kernels->scale_rows(ctx, w, linear.weight.value, inverse);
  linear.weight.value = w;
  divide(ctx, linear.bias, inverse, stored);
}

}  // namespace

OutlierSplit detect_outliers(std::span<const float> ascending, const CfpOptions& options) {
  const double none = std::numeric_limits<double>::infinity();
  if (ascending.empty()) return {none, 0, 0};
  const Quantiles q = quantiles(options.preset);
  const double q1 = quantile(ascending, q.low), q3 = quantile(ascending, q.high),
               coarse = q3 + options.lambda1 * (q3 - q1);
  const auto first =
      std::upper_bound(ascending.begin(), ascending.end(), coarse, [](double t, float v) { return t < v; });
  const std::span<const float> candidates(first, ascending.end());
  if (candidates.empty() || first == ascending.begin()) return {none, ascending.back(), 0};

  // Split i reserves candidates 0 .. i-1, whose variance comes from running sums; for i = 0 the gap is to the values
  // below the coarse threshold.
  double best = -none, sum = 0, sum_of_squares = 0;
  std::size_t best_split = 0;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const double below = i == 0 ? *(first - 1) : candidates[i - 1], gap = candidates[i] - below;
    const double mean = i == 0 ? 0 : sum / double(i);
    const double variance = i == 0 ? 0 : std::max(0.0, sum_of_squares / double(i) - mean * mean);
    const double inter = options.preset == CfpPreset::paper ? gap * gap : gap;
    if (inter - options.lambda2 * variance > best) {
      best = inter - options.lambda2 * variance;
      best_split = i;
    }
    const double shifted = double(candidates[i]) - candidates[0];  // keeps the difference of squares small
    sum += shifted;
    sum_of_squares += shifted * shifted;
  }
  const double reserved_max = best_split == 0 ? *(first - 1) : candidates[best_split - 1];
  return {reserved_max, reserved_max, std::int64_t(candidates.size() - best_split)};
}

std::vector<Var> RangeObserver::linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) {
  const Var x = in.value(ctx);
  Tensor low(ctx, {x.value.cols()}, x.value.dtype()), high(ctx, {x.value.cols()}, x.value.dtype());
  ctx.kernels->column_range(ctx, low, high, x.value);
  const auto new_low = to_host<float>(ctx, low), new_high = to_host<float>(ctx, high);
  ActivationRange& range = ranges_[std::size_t(site)];
  if (range.low.empty()) {
    range = {new_low, new_high};
  } else {
    for (std::size_t i = 0; i < new_low.size(); ++i) {
      range.low[i] = std::min(range.low[i], new_low[i]);
      range.high[i] = std::max(range.high[i], new_high[i]);
    }
  }
  return inner_.linears(ctx, site, x, addend);
}

bool can_fold(const ModelConfig& config, Site site) {
  switch (site) {
    case Site::attention_in:
    case Site::mlp_in: return config.family == Family::llama || config.pre_norm;
    case Site::attention_out: return true;
    case Site::mlp_out: return config.family == Family::llama || config.activation == Activation::relu;
  }
  return false;
}

CfpPlan plan_cfp(Context& ctx, const ModelConfig& config, const BlockWeights& weights, const BlockRanges& ranges,
                 const RunConfig& run) {
  const CfpOptions options{run.cfp, run.cfp_lambda1, run.cfp_lambda2};
  CfpPlan plan;
  for (int i = 0; run.cfp_activations && i < kSites; ++i) {
    const auto& range = ranges[std::size_t(i)];
    if (range.low.empty() || !can_fold(config, Site(i))) continue;
    std::vector<float> scale = site_scale(range, options);
    if (Site(i) == Site::attention_out) share_over_groups(scale, config);
    if (std::any_of(scale.begin(), scale.end(), [](float s) { return s != 1; }))
      plan.site_scale[std::size_t(i)] = std::move(scale);
  }
  for (const LinearRole role : linear_roles(config.family)) {
    if (!run.cfp_weights) break;
    const Tensor& w = weights[role].weight.value;
    Tensor sorted(ctx, {w.count()}, w.dtype());
    ctx.kernels->sort_magnitudes(ctx, sorted, w);
    const std::vector<float> magnitudes = to_host<float>(ctx, sorted);
    const OutlierSplit split = detect_outliers(magnitudes, options);
    plan.outliers[std::size_t(role)] = split.outliers;
    plan.largest[std::size_t(role)] = magnitudes.back();
    if (split.outliers > 0) plan.truncation[std::size_t(role)] = split.reserved_max;
  }
  return plan;
}

void apply_cfp(Context& ctx, const ModelConfig& config, BlockWeights& weights, const CfpPlan& plan, DType stored) {
  const DType dtype = weights[LinearRole::q].weight.value.dtype();
  for (const LinearRole role : linear_roles(config.family)) {
    const double level = plan.truncation[std::size_t(role)];
    if (!std::isfinite(level)) continue;
    Tensor w(ctx, weights[role].weight.shape(), dtype);
    ctx.kernels->clamp(ctx, w, weights[role].weight.value, -level, level);
    weights[role].weight.value = w;
  }
  for (int i = 0; i < kSites; ++i) {
    const std::vector<float>& scale = plan.site_scale[std::size_t(i)];
    if (scale.empty()) continue;
    std::vector<float> inverse(scale.size());
    std::transform(scale.begin(), scale.end(), inverse.begin(), [](float s) { return 1 / s; });
    const std::int64_t n = std::int64_t(scale.size());
    const Tensor s = from_host<float>(ctx, {n}, dtype, scale), inv = from_host<float>(ctx, {n}, dtype, inverse);
    switch (Site(i)) {
      case Site::attention_in:
      case Site::mlp_in: {
        Norm& norm = Site(i) == Site::attention_in ? weights.attention_norm : weights.mlp_norm;
        divide(ctx, norm.weight, inv, stored);
        divide(ctx, norm.bias, inv, stored);
        break;
      }
      case Site::mlp_out: divide_rows(ctx, weights[LinearRole::up], inv, stored); break;
      case Site::attention_out: {
        // One entry per value channel: that of the first query head of each group, all heads of a group being equal.
        const std::int64_t group = config.heads / config.kv_heads, dim = config.head_dim;
        std::vector<float> value_inverse;
        for (std::int64_t c = 0; c < config.kv_heads * dim; ++c)
          value_inverse.push_back(inverse[std::size_t(c / dim * group * dim + c % dim)]);
        const Tensor v = from_host<float>(ctx, {config.kv_heads * dim}, dtype, value_inverse);
        divide_rows(ctx, weights[LinearRole::v], v, stored);
        break;
      }
    }
    for (const LinearRole role : linear_roles(config.family, Site(i))) {
      Tensor w(ctx, weights[role].weight.shape(), dtype);
      ctx.kernels->scale_columns(ctx, w, weights[role].weight.value, s);
      weights[role].weight.value = w;
    }
  }
}

std::map<std::string, Tensor> CfpPlan::state(Context& ctx) const {
  std::map<std::string, Tensor> tensors;
  for (int i = 0; i < kSites; ++i)
    if (const auto& scale = site_scale[std::size_t(i)]; !scale.empty())
      tensors["site" + std::to_string(i)] = from_host<float>(ctx, {std::int64_t(scale.size())}, DType::f32, scale);
  const std::vector<float> levels(truncation.begin(), truncation.end());  // exact: they are magnitudes of f32 weights
  tensors["truncation"] = from_host<float>(ctx, {kLinearRoles}, DType::f32, levels);
  return tensors;
}

CfpPlan CfpPlan::from_state(Context& ctx, const std::map<std::string, Tensor>& state) {
  CfpPlan plan;
  for (const auto& [name, tensor] : state) {
    const std::vector<float> values = to_host<float>(ctx, tensor);
    if (name == "truncation")
      std::copy(values.begin(), values.end(), plan.truncation.begin());
    else
      plan.site_scale[std::size_t(std::stoi(name.substr(4)))] = values;
  }
  return plan;
}

}  // namespace cbq
