#include "quant/quant_block.h"

#include <algorithm>

#include "models/weights.h"

namespace cbq {
namespace {

// State of a part of the block, its names prefixed: "q.a1".
void add_prefixed(std::map<std::string, Tensor>& all, const std::string& prefix,
                  const std::map<std::string, Tensor>& part) {
  for (const auto& [name, tensor] : part) all[prefix + name] = tensor;
}

const std::string kStart = "start";  // of a layer's state: the weight that GPTQ rounds

std::string site_prefix(int site) {
  return "site" + std::to_string(site) + ".";
}
std::string role_prefix(const ModelConfig& config, LinearRole role) {
  return short_name(config, role) + ".";
}

}  // namespace

std::map<std::string, Tensor> with_prefix(const std::map<std::string, Tensor>& all, const std::string& prefix) {
  std::map<std::string, Tensor> part;
  for (const auto& [name, tensor] : all)
    if (name.starts_with(prefix)) part[name.substr(prefix.size())] = tensor;
  return part;
}

std::unique_ptr<DenseBlock> dense_block(Context& ctx, const ModelConfig& config, const HardBlock& hard) {
  const DType compute = hard.weights.attention_norm.weight.value.dtype(), dtype = statistics_dtype(compute);
  BlockWeights weights = hard.weights;
  for (const LinearRole role : linear_roles(config.family))
    if (const auto& integers = hard.hard[std::size_t(role)])
      weights[role].weight = dequantise(ctx, *integers, config.dtype, compute);
  auto block = std::make_unique<DenseBlock>(config, std::move(weights));
  for (const LinearRole role : linear_roles(config.family)) {
    const auto site = std::size_t(site_of(role));
    const ActivationSpec& activation = hard.spec[std::size_t(role)].activation;
    if (activation.bits < 16)
      block->activations[site] = {activation, full(ctx, {1}, dtype, hard.activation_factor[site])};
  }
  block->kv_cache = hard.kv_cache;
  return block;
}

QuantBlock::QuantBlock(Context& ctx, const ModelConfig& config, BlockWeights weights, const BlockSpec& spec,
                       ActivationSpec kv_cache, const RoundingOptions& options, Rng& rng)
    : config_(config),
      weights_(std::move(weights)),
      spec_(spec),
      kv_cache_(kv_cache),
      activation_steps_(options.activation_steps),
      rounding_start_(options.rounding_start) {
  for (const LinearRole role : linear_roles(config_.family)) {
    const LinearSpec& linear = spec_[std::size_t(role)];
    const Tensor& w = weights_[role].weight.value;
    if (linear.weight.quantised()) roundings_[std::size_t(role)].emplace(ctx, w, linear.weight, options, rng);
    Parameter& factor = factors_[std::size_t(site_of(role))];
    if (linear.activation.bits < 16 && !factor.value)
      factor = Parameter("factor", full(ctx, {1}, statistics_dtype(w.dtype()), 1));
  }
}

std::vector<Var> QuantBlock::linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) {
  const auto roles = linear_roles(config_.family, site);
  const ActivationSpec& activation = spec_[std::size_t(roles[0])].activation;
  const Parameter& factor = factors_[std::size_t(site)];
  const bool learned = tape_ && activation_steps_ == StepSizes::learned;
  const auto form_of = [&](LinearRole role) { return form(ctx, role, in.rows()); };
  const bool has_integers =
      std::ranges::any_of(roles, [&](LinearRole role) { return form_of(role) == ops::Form::with_integers; });
  const Var x_hat =
      activation.bits < 16
          ? in.quantised(ctx, {learned ? tape_->leaf(factor) : Var(factor.value), activation.bits, activation.symmetry,
                               has_integers ? ops::Form::with_integers : ops::Form::values})
          : in.value(ctx);
  if (observer) observer(site, x_hat.value);
  std::vector<Var> y;
  for (const LinearRole role : roles) {
    // The weight's node is recorded right before its product's, so backward frees each weight gradient at once.
    y.push_back(ops::linear(ctx, x_hat, weight(ctx, role, form_of(role)), weights_[role].bias, addend));
  }
  return y;
}

Var QuantBlock::weight(Context& ctx, LinearRole role, ops::Form form) const {
  const auto i = std::size_t(role);
  if (!roundings_[i]) return weights_[role].weight;
  ops::WeightQuantiserVars vars = roundings_[i]->vars(ctx, tape_, hardness_);
  vars.form = form;
  vars.regulariser = regulariser_;
  // The weights that `weights` learns are in f32, whatever the block computes in.
  return ops::cast(ctx, ops::quantise_weight(ctx, vars), weights_[role].weight.value.dtype());
}

ops::Form QuantBlock::form(const Context& ctx, LinearRole role, std::int64_t rows) const {
  const auto& rounding = roundings_[std::size_t(role)];
  const ActivationSpec& activation = spec_[std::size_t(role)].activation;
  const Shape weight = weight_shape(config_, role);
  const bool is_one = rounding && rounding->has_integers(hardness_) && activation.bits < 16 &&
                      integers_fit(activation.bits, activation.symmetry) &&
                      ctx.prefers_integers(weights_[role].weight.value.dtype(), {rows, weight[1]}, weight);
  return is_one ? ops::Form::with_integers : ops::Form::values;
}

void QuantBlock::start_from_gptq(Context& ctx, LinearRole role, Tensor w) {
  weights_[role].weight = Var(w);
  roundings_[std::size_t(role)]->start_from_gptq(ctx, std::move(w), config_.dtype);
}

Var QuantBlock::cached(Context& ctx, const Var& kv) {
  return quantise_kv_cache(ctx, config_, kv, kv_cache_);
}

HardBlock QuantBlock::harden(Context& ctx, DType stored) const {
  HardBlock hard;
  hard.weights = weights_;
  hard.spec = spec_;
  hard.kv_cache = kv_cache_;
  for (const LinearRole role : linear_roles(config_.family)) {
    const auto i = std::size_t(role);
    if (!roundings_[i]) {
      Var& w = hard.weights[role].weight;  // 16-bit, but preprocessing may have scaled it
      w = round_to(ctx, w.value, stored);
      continue;
    }
    hard.hard[i] = roundings_[i]->harden(ctx, stored);
    hard.weights[role].weight = Var();
  }
  for (int site = 0; site < kSites; ++site)
    if (factors_[std::size_t(site)].value)
      hard.activation_factor[std::size_t(site)] = to_host<float>(ctx, factors_[std::size_t(site)].value)[0];
  return hard;
}

std::vector<Parameter*> QuantBlock::rounding_parameters() {
  std::vector<Parameter*> all;
  for (auto& rounding : roundings_)
    if (rounding)
      for (Parameter* p : rounding->rounding_parameters()) all.push_back(p);
  return all;
}

std::vector<Parameter*> QuantBlock::scale_parameters() {
  std::vector<Parameter*> all;
  for (auto& rounding : roundings_)
    if (rounding)
      for (Parameter* p : rounding->scale_parameters()) all.push_back(p);
  return all;
}

std::vector<Parameter*> QuantBlock::activation_parameters() {
  std::vector<Parameter*> all;
  if (activation_steps_ == StepSizes::fixed) return all;
  for (Parameter& factor : factors_)
    if (factor.value) all.push_back(&factor);
  return all;
}

std::map<std::string, Tensor> QuantBlock::state() {
  std::map<std::string, Tensor> all;
  for (const LinearRole role : linear_roles(config_.family))
    if (auto& rounding = roundings_[std::size_t(role)]) {
      add_prefixed(all, role_prefix(config_, role), rounding->state());
      // GPTQ's weights depend on the blocks before this one as they were then, which no file keeps.
      if (rounding_start_ == RoundingStart::gptq)
        all[role_prefix(config_, role) + kStart] = weights_[role].weight.value;
    }
  for (int site = 0; site < kSites; ++site)
    if (const Parameter& factor = factors_[std::size_t(site)]; factor.value)
      all[site_prefix(site) + factor.name] = factor.value;
  return all;
}

void QuantBlock::restore(Context& ctx, const std::map<std::string, Tensor>& state) {
  for (const LinearRole role : linear_roles(config_.family)) {
    auto& rounding = roundings_[std::size_t(role)];
    if (!rounding) continue;
    const auto saved = with_prefix(state, role_prefix(config_, role));
    if (rounding_start_ == RoundingStart::gptq) {
      const Shape& shape = weights_[role].weight.value.shape();
      const auto start = saved.find(kStart);
      require(start != saved.end() && start->second.shape() == shape, "resume: the saved state has no start of ",
              short_name(config_, role), " of shape ", shape);
      start_from_gptq(ctx, role, start->second);
    }
    rounding->restore(saved);
  }
  for (int site = 0; site < kSites; ++site)
    if (Parameter& factor = factors_[std::size_t(site)]; factor.value) {
      const auto saved = state.find(site_prefix(site) + factor.name);
      require(saved != state.end(), "resume: the saved state has no activation factor of site ", site);
      factor.value = saved->second;
    }
}

}  // namespace cbq
