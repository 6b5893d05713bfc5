#include "quant/rounding.h"

#include <cmath>

#include "core/kernels.h"
#include "models/weights.h"

namespace cbq {
namespace {

// Steps as every format holds them: values of `stored`, the dtype of compressed-tensors and dense files, and of f16,
// that of GPTQ. From 2^-17 on all bf16 values are f16 values; the ends are the least and the largest that both have.
Tensor storable_steps(Context& ctx, const Tensor& scale, DType stored) {
  constexpr double kSmallest = 0x1p-24, kLargest = 65280;
  const Tensor rounded = round_to(ctx, scale, stored);
  Tensor bounded(ctx, scale.shape(), scale.dtype());
  ctx.kernels->clamp(ctx, bounded, rounded, kSmallest, kLargest);
  return round_to(ctx, bounded, DType::f16);
}

Var leaf_or_constant(Tape* tape, const Parameter& parameter) {
  return tape ? tape->leaf(parameter) : Var(parameter.value);
}

}  // namespace

bool is_annealed(RoundingKind kind) {
  return kind == RoundingKind::lora || kind == RoundingKind::dense;
}

Tensor dequantise(Context& ctx, const HardWeight& hard, DType stored, DType compute) {
  Tensor w_hat(ctx, hard.codes.shape(), hard.scale.dtype());
  ctx.kernels->dequantise_weight(ctx, w_hat, hard.codes, hard.grid());
  const Tensor rounded = round_to(ctx, w_hat, stored);
  return rounded.dtype() == compute ? rounded : convert(ctx, rounded, compute);
}

WeightRounding::WeightRounding(Context& ctx, Tensor w, const WeightSpec& spec, const RoundingOptions& options, Rng& rng)
    : spec_(spec), options_(options), w_(std::move(w)) {
  const DType dtype = statistics_dtype(w_.dtype());
  const Shape grid = spec_.grid_shape(w_.shape());
  const std::int64_t out = w_.size(0), in = w_.size(1), rank = options_.rank;
  scale0_ = Tensor(ctx, grid, dtype);
  zero0_ = Tensor(ctx, grid, dtype);
  ctx.kernels->start_grid(ctx, scale0_, zero0_, w_, spec_.bits, spec_.symmetry, kMinClipRatio,
                          options_.start == Start::mse ? kClipSteps : 1);
  if (options_.kind == RoundingKind::sign) {
    low_ = Parameter("low", full(ctx, grid, dtype, 1));
    high_ = Parameter("high", full(ctx, grid, dtype, 1));
  } else {
    log_scale_ = Parameter("log_scale", full(ctx, grid, dtype, 0));
  }
  switch (options_.kind) {
    case RoundingKind::nearest: break;
    case RoundingKind::lora:
    case RoundingKind::lora_ste: {
      std::vector<float> gaussian(std::size_t(out * rank));
      for (float& a : gaussian) a = float(rng.normal() / std::sqrt(double(rank)));
      a1_ = Parameter("a1", from_host<float>(ctx, {out, rank}, dtype, gaussian));
      a2_ = Parameter("a2", full(ctx, {rank, in}, dtype, 0));
      break;
    }
    case RoundingKind::dense:
    case RoundingKind::sign: dense_ = Parameter("dense", full(ctx, w_.shape(), dtype, 0)); break;
    case RoundingKind::weights: learn_weight(ctx); break;
  }
}

void WeightRounding::learn_weight(Context& ctx) {
  const DType dtype = statistics_dtype(w_.dtype());
  weight_ = Parameter("weight", w_.dtype() == dtype ? copy(ctx, w_) : convert(ctx, w_, dtype));
}

void WeightRounding::start_from_gptq(Context& ctx, Tensor w, DType stored) {
  w_ = std::move(w);
  if (options_.kind == RoundingKind::weights) learn_weight(ctx);
  if (options_.kind != RoundingKind::sign) decided_on_ = storable_steps(ctx, scale0_, stored);
}

ops::Grid WeightRounding::grid(Context& ctx, Tape* tape) const {
  Tape* learned_on = options_.weight_steps == StepSizes::learned ? tape : nullptr;
  if (options_.kind == RoundingKind::sign)
    return ops::clip_grid(ctx, scale0_, zero0_, leaf_or_constant(learned_on, low_), leaf_or_constant(learned_on, high_),
                          spec_.bits, spec_.symmetry);
  return {ops::scaled_exp(ctx, scale0_, leaf_or_constant(learned_on, log_scale_)), zero0_};
}

ops::WeightQuantiserVars WeightRounding::vars(Context& ctx, Tape* tape, Hardness hardness) const {
  const ops::Grid g = grid(ctx, tape);
  const auto sigmoid = hardness == Hardness::soft ? Rounder::sigmoid : Rounder::sigmoid_hard;
  ops::WeightQuantiserVars vars{.w = w_,
                                .scale = g.scale,
                                .zero = g.zero,
                                .bits = spec_.bits,
                                .rounder = is_annealed(options_.kind) ? sigmoid : Rounder::straight_through,
                                .dense = {},
                                .a1 = {},
                                .a2 = {},
                                .start_scale = decided_on_};
  if (weight_.value) vars.w = leaf_or_constant(tape, weight_);
  if (dense_.value) vars.dense = leaf_or_constant(tape, dense_);
  if (a1_.value) {
    vars.a1 = leaf_or_constant(tape, a1_);
    vars.a2 = leaf_or_constant(tape, a2_);
  }
  return vars;
}

bool WeightRounding::has_integers(Hardness hardness) const {
  const bool is_rounded = hardness == Hardness::hard || !is_annealed(options_.kind);
  const bool is_in_dtype = !weight_.value || weight_.value.dtype() == w_.dtype();
  return is_rounded && is_in_dtype && spec_.group_size < 0 && integers_fit(spec_.bits, spec_.symmetry);
}

Rounder WeightRounding::hard_rounder() const {
  return is_annealed(options_.kind) ? Rounder::sigmoid_hard : Rounder::straight_through;
}

HardWeight WeightRounding::harden(Context& ctx, DType stored) const {
  const ops::WeightQuantiserVars v = vars(ctx, nullptr, Hardness::hard);
  HardWeight hard{spec_, Tensor(ctx, w_.shape(), DType::u8), storable_steps(ctx, v.scale.value, stored), v.zero.value};
  ctx.kernels->weight_codes(ctx, hard.codes,
                            {v.w.value, hard.grid(), v.rounder, {v.dense.value, v.a1.value, v.a2.value}, decided_on_});
  return hard;
}

std::vector<Parameter*> WeightRounding::rounding_parameters() {
  std::vector<Parameter*> all;
  for (Parameter* p : {&a1_, &a2_, &dense_, &weight_})
    if (p->value) all.push_back(p);
  return all;
}

std::vector<Parameter*> WeightRounding::scale_parameters() {
  if (options_.weight_steps == StepSizes::fixed) return {};
  if (options_.kind == RoundingKind::sign) return {&low_, &high_};
  return {&log_scale_};
}

std::vector<Parameter*> WeightRounding::parameters() {
  std::vector<Parameter*> all;
  for (Parameter* p : {&log_scale_, &low_, &high_, &a1_, &a2_, &dense_, &weight_})
    if (p->value) all.push_back(p);
  return all;
}

std::map<std::string, Tensor> WeightRounding::state() {
  std::map<std::string, Tensor> tensors;
  for (const Parameter* p : parameters()) tensors[p->name] = p->value;
  return tensors;
}

void WeightRounding::restore(const std::map<std::string, Tensor>& state) {
  for (Parameter* p : parameters()) {
    const auto saved = state.find(p->name);
    require(saved != state.end() && saved->second.shape() == p->value.shape(), "resume: the saved state has no ",
            p->name, " of shape ", p->value.shape());
    p->value = saved->second;
  }
}

}  // namespace cbq
