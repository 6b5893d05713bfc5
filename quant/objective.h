// The distance that cross-block reconstruction minimises, and the annealing of soft rounding.
#pragma once

#include "quant/config.h"

namespace cbq {

// E(target, output) = l2 mean((target - output)^2) + kl mean_rows KL(softmax(target) || softmax(output)), the softmax
// over the hidden dimension (CBQ 2312.07950). Terms with weight 0 are not computed. target, output (R, C) -> (1).
Var distance(Context& ctx, const RunConfig& config, const Tensor& target, const Var& output);

// What a step of an annealed kind does. Steps below anneal_start: no regulariser. Then beta goes from beta_start to
// beta_end along a cosine (AdaRound 2004.10568), and the last hard_fraction of the steps runs hardened.
struct Annealing {
  Hardness hardness;
  double lambda = 0;  // weight of L_com, 0 when it does not act
  double beta = 0;
  friend bool operator==(const Annealing&, const Annealing&) = default;
};
Annealing annealing_at(const RunConfig& config, std::int64_t step, std::int64_t steps);

}  // namespace cbq
