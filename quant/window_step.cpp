#include "quant/window_step.h"

#include <utility>

#include "core/kernels.h"

namespace cbq {
namespace {

std::vector<ParameterGroup> parameter_groups(const RunConfig& config, std::span<QuantBlock* const> blocks,
                                             double lr_factor) {
  ParameterGroup rounding{
      .parameters = {}, .lr = config.rounding_lr() * lr_factor, .schedule = config.rounding_schedule()};
  ParameterGroup scale{.parameters = {}, .lr = config.scale_lr() * lr_factor, .schedule = config.rounding_schedule()};
  ParameterGroup activation{.parameters = {}, .lr = config.lr_activation * lr_factor, .schedule = Schedule::cosine};
  if (config.rounding == RoundingKind::sign) {
    rounding.update = scale.update = Update::sign_sgd;
    rounding.low = -0.5, rounding.high = 0.5;
    scale.low = 0.5, scale.high = 1;
  }
  for (QuantBlock* block : blocks) {
    for (Parameter* p : block->rounding_parameters()) rounding.parameters.push_back(p);
    for (Parameter* p : block->scale_parameters()) scale.parameters.push_back(p);
    for (Parameter* p : block->activation_parameters()) activation.parameters.push_back(p);
  }
  return {rounding, scale, activation};
}

std::vector<Parameter*> parameters_of(const std::vector<ParameterGroup>& groups) {
  std::vector<Parameter*> all;
  for (const ParameterGroup& group : groups) all.insert(all.end(), group.parameters.begin(), group.parameters.end());
  return all;
}

// Rows of several samples under each other, into y.
void stack(Context& ctx, const Tensor& y, const Stream& samples, std::span<const std::int64_t> which) {
  const std::int64_t tokens = y.rows() / std::int64_t(which.size());
  for (std::size_t i = 0; i < which.size(); ++i)
    samples.load(ctx, which[i], y.slice(0, std::int64_t(i) * tokens, std::int64_t(i + 1) * tokens));
}

}  // namespace

Var window_forward(Context& ctx, const ModelConfig& model, std::span<QuantBlock* const> blocks,
                   const Sequence& sequence, Var x) {
  for (QuantBlock* block : blocks) x = block_forward(ctx, model, *block, x, sequence);
  return x;
}

WindowStep::WindowStep(Context& ctx, const ModelConfig& model, const RunConfig& config,
                       std::span<QuantBlock* const> blocks, const Sequence& sequence, const WindowData& data,
                       double unit, double lr_factor, std::int64_t steps)
    : ctx_(ctx),
      model_(model),
      config_(config),
      blocks_(blocks),
      sequence_(sequence),
      data_(data),
      unit_(unit),
      parameters_(parameters_of(parameter_groups(config, blocks, lr_factor))),
      optimizer_(ctx, parameter_groups(config, blocks, lr_factor), steps) {}

Tensor WindowStep::run(std::span<const std::int64_t> samples, const Annealing& annealing) {
  const Kind kind{std::int64_t(samples.size()), annealing.hardness,
                  annealing.lambda > 0 ? Kind::Regulariser::present : Kind::Regulariser::absent};
  const bool is_repeated = kind_ == kind;
  if (!is_repeated) forget_recording();
  kind_ = kind;
  load(samples, annealing);
  if (is_repeated && !std::exchange(was_tried_, true)) record();
  if (replay_) {
    replay_->run();
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i]->slot->grad = gradients_[i];
  } else {
    compute();
  }
  optimizer_.step();
  return loss_;
}

// The replay goes first: the others are where it writes.
void WindowStep::forget_recording() {
  replay_.reset();
  gradients_.clear();
  was_tried_ = false;
}

void WindowStep::load(std::span<const std::int64_t> samples, const Annealing& annealing) {
  const auto batch = std::int64_t(samples.size());
  const auto load_one = [&](Tensor& to, const Stream& from) {
    if (from.size() == 0) return;
    const Shape rows{batch * from.sample().rows(), from.sample().cols()};
    if (!to || to.shape() != rows) to = Tensor(ctx_, rows, from.dtype());
    stack(ctx_, to, from, samples);
  };
  load_one(input_, data_.input);
  load_one(target_, data_.target);
  load_one(homologous_, data_.homologous_target);
  if (kind_->regulariser == Kind::Regulariser::absent) return;
  if (!regulariser_) regulariser_ = Tensor(ctx_, {2}, statistics_dtype(input_.dtype()));
  ctx_.kernels->fill(ctx_, regulariser_.slice(0, 0, 1), annealing.lambda);
  ctx_.kernels->fill(ctx_, regulariser_.slice(0, 1, 2), annealing.beta);
}

void WindowStep::compute() {
  loss_ = Tensor();  // its bytes are free for this step's, so that a recorded step needs no block more than this one
  sequence_.batch = kind_->batch;
  Tape tape(ctx_);
  for (QuantBlock* block : blocks_)
    block->use(&tape, kind_->hardness, kind_->regulariser == Kind::Regulariser::present ? regulariser_ : Tensor());
  const Var y = window_forward(ctx_, model_, blocks_, sequence_, input_);
  Var loss = distance(ctx_, config_, target_, y);
  if (homologous_) loss = ops::add(ctx_, loss, distance(ctx_, config_, homologous_, y));
  loss = ops::scale(ctx_, loss, unit_);
  loss_ = loss.value;
  if (loss.needs_grad()) tape.backward(loss);
}

void WindowStep::record() {
  replay_ = ctx_.record([this] { compute(); });
  // Without a replay these hold nothing; with one the optimiser is handed them after each.
  for (Parameter* parameter : parameters_) {
    Tensor gradient = std::exchange(parameter->slot->grad, Tensor());
    if (replay_) gradients_.push_back(std::move(gradient));
  }
}

}  // namespace cbq
