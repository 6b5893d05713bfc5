#include "quant/objective.h"

#include <cmath>
#include <numbers>

namespace cbq {

Var distance(Context& ctx, const RunConfig& config, const Tensor& target, const Var& output) {
  Var sum;
  if (config.l2 > 0) sum = ops::scale(ctx, ops::mse(ctx, target, output), config.l2);
  if (config.kl > 0) {
    const Var kl = ops::scale(ctx, ops::kl_divergence(ctx, target, output), config.kl);
    sum = sum.value ? ops::add(ctx, sum, kl) : kl;
  }
  return sum;
}

Annealing annealing_at(const RunConfig& config, std::int64_t step, std::int64_t steps) {
  if (!is_annealed(config.rounding)) return {Hardness::hard};
  const double t = double(step) / double(steps), end = 1 - config.hard_fraction;
  if (t >= end) return {Hardness::hard};
  if (t < config.anneal_start) return {Hardness::soft};
  const double progress = (t - config.anneal_start) / (end - config.anneal_start);
  const double beta =
      config.beta_end + (config.beta_start - config.beta_end) * (1 + std::cos(std::numbers::pi * progress)) / 2;
  return {Hardness::soft, config.lambda_com, beta};
}

}  // namespace cbq
