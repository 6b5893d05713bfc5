// Optimisers with parameter groups and learning-rate schedules.
#pragma once

#include <span>
#include <vector>

#include "autograd/tape.h"
#include "core/kernel_args.h"

namespace cbq {

enum class Schedule { constant, linear, cosine };

// Learning rate factor at step t = 0 .. steps-1: constant 1; linear 1 - t/steps; cosine (1 + cos(pi t/steps)) / 2; in
// the first `warmup` steps times (t + 1) / warmup.
double schedule_factor(Schedule schedule, std::int64_t t, std::int64_t steps, std::int64_t warmup = 0);

enum class Update { adamw, sign_sgd };

struct ParameterGroup {
  std::vector<Parameter*> parameters;
  double lr;
  Update update = Update::adamw;
  Schedule schedule = Schedule::cosine;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weight_decay = 0;  // adamw
  double low = -kUnbounded, high = kUnbounded;                         // values are kept in [low, high] after each step
};

// Owns the moments of its parameters, in f32 (f64 for f64 parameters).
class Optimizer {
 public:
  // `steps` is the length of every schedule.
  Optimizer(Context& ctx, std::vector<ParameterGroup> groups, std::int64_t steps, std::int64_t warmup = 0);

  // Takes the gradients collected in the parameters' slots, updates, and leaves the slots empty. A parameter without a
  // gradient stays as it is.
  void step();
  std::int64_t steps_done() const { return steps_done_; }

 private:
  struct Moments {
    Tensor m, v;
    std::int64_t updates = 0;  // gradients seen: the bias correction counts these, not the steps without a gradient
  };
  Context& ctx_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::vector<Moments>> moments_;  // as groups_; empty tensors for sign_sgd
  std::int64_t steps_, warmup_, steps_done_ = 0;
};

}  // namespace cbq
