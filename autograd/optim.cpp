#include "autograd/optim.h"

#include <cmath>
#include <numbers>
#include <unordered_set>
#include <utility>

#include "core/kernels.h"

namespace cbq {
namespace {

void require_group(const ParameterGroup& group) {
  require(group.lr >= 0 && std::isfinite(group.lr), "optimizer: the learning rate must be 0 or more, got ", group.lr);
  require(group.beta1 >= 0 && group.beta1 < 1 && group.beta2 >= 0 && group.beta2 < 1,
          "optimizer: beta1 and beta2 must lie in [0, 1), got ", group.beta1, " and ", group.beta2);
  require(group.epsilon > 0, "optimizer: epsilon must be positive, got ", group.epsilon);
  require(group.weight_decay >= 0, "optimizer: the weight decay must be 0 or more, got ", group.weight_decay);
  require(group.low <= group.high, "optimizer: the bounds [", group.low, ", ", group.high, "] hold no value");
}

}  // namespace

double schedule_factor(Schedule schedule, std::int64_t t, std::int64_t steps, std::int64_t warmup) {
  require(t >= 0 && t < steps, "schedule: step ", t, " is not among the ", steps, " steps");
  require(warmup >= 0, "schedule: the warm-up must be 0 or more steps, got ", warmup);
  const double done = double(t) / double(steps), ramp = t < warmup ? double(t + 1) / double(warmup) : 1;
  switch (schedule) {
    case Schedule::constant: return ramp;
    case Schedule::linear: return ramp * (1 - done);
    case Schedule::cosine: return ramp * (1 + std::cos(std::numbers::pi * done)) / 2;
  }
  fail(ErrorKind::failure, "schedule: unknown kind ", int(schedule));
}

Optimizer::Optimizer(Context& ctx, std::vector<ParameterGroup> groups, std::int64_t steps, std::int64_t warmup)
    : ctx_(ctx), groups_(std::move(groups)), steps_(steps), warmup_(warmup) {
  require(steps >= 0 && warmup >= 0, "optimizer: expected steps and warm-up of 0 or more, got ", steps, " and ",
          warmup);
  std::unordered_set<const Parameter*> seen;
  for (const ParameterGroup& group : groups_) {
    require_group(group);
    std::vector<Moments>& moments = moments_.emplace_back();
    for (const Parameter* parameter : group.parameters) {
      require(parameter && parameter->value, "optimizer: a group holds a parameter without a value");
      const DType dtype = parameter->value.dtype();
      require(dtype == DType::f32 || dtype == DType::f64, "optimizer: parameter ", parameter->name,
              " must be f32 or f64, got ", dtype);
      require(seen.insert(parameter).second, "optimizer: parameter ", parameter->name, " was given twice");
      if (group.update == Update::adamw)
        moments.push_back(
            {full(ctx, parameter->value.shape(), dtype, 0), full(ctx, parameter->value.shape(), dtype, 0)});
      else
        moments.push_back({});
    }
  }
}

void Optimizer::step() {
  require(steps_done_ < steps_, "optimizer: all ", steps_, " steps of the schedule are done");
  std::vector<Tensor> grads;  // alive until the kernels that read them are queued
  std::vector<AdamTensor> adamw;
  std::vector<SignTensor> sign_sgd;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const ParameterGroup& group = groups_[g];
    const double lr = group.lr * schedule_factor(group.schedule, steps_done_, steps_, warmup_);
    for (std::size_t p = 0; p < group.parameters.size(); ++p) {
      Parameter& parameter = *group.parameters[p];
      if (!parameter.slot->grad) continue;
      const Tensor& value = parameter.value;
      const Tensor& grad = grads.emplace_back(std::exchange(parameter.slot->grad, Tensor()));
      require(grad.shape() == value.shape() && grad.dtype() == value.dtype(), "optimizer: parameter ", parameter.name,
              " is ", value.shape(), " ", value.dtype(), ", its gradient ", grad.shape(), " ", grad.dtype());
      if (group.update == Update::adamw) {
        Moments& moments = moments_[g][p];
        const AdamStep step{lr, group.beta1, group.beta2, group.epsilon, group.weight_decay, ++moments.updates};
        adamw.push_back({value, moments.m, moments.v, grad, step, group.low, group.high});
      } else {
        sign_sgd.push_back({value, grad, lr, group.low, group.high});
      }
    }
  }
  ctx_.kernels->adamw_step(ctx_, adamw);
  ctx_.kernels->sign_sgd_step(ctx_, sign_sgd);
  ++steps_done_;
}

}  // namespace cbq
