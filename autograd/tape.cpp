#include "autograd/tape.h"

#include <utility>

#include "core/kernels.h"

namespace cbq {

void Slot::collect(Context& ctx, Tensor g) {
  if (!grad) {
    grad = std::move(g);
    return;
  }
  require(grad.shape() == g.shape() && grad.dtype() == g.dtype(), "tape: gradients ", grad.shape(), " ", grad.dtype(),
          " and ", g.shape(), " ", g.dtype(), " meet in one value");
  if (!grad.sole_owner()) grad = copy(ctx, grad);  // someone else still reads these bytes
  ctx.kernels->add(ctx, grad, grad, g);
}

Grads::Target Grads::take(std::size_t i, const Shape& shape, DType dtype) const {
  if (!wants(i)) return {};
  Tensor& collected = inputs_[i]->grad;
  require(!collected || collected.shape() == shape, "tape: gradients ", collected.shape(), " and ", shape,
          " meet in one value");
  if (!collected || collected.dtype() != dtype) return {Tensor(ctx_, shape, dtype), {}};
  const Tensor addend = std::exchange(collected, Tensor());
  return {addend.sole_owner() ? addend : Tensor(ctx_, shape, dtype), addend};
}

Var Tape::leaf(Tensor value) {
  Var var(std::move(value));
  var.slot = std::make_shared<Slot>();
  var.tape = this;
  return var;
}

Var Tape::leaf(const Parameter& parameter) {
  Var var(parameter.value);
  var.slot = parameter.slot;
  var.tape = this;
  return var;
}

Tape* Tape::common_tape(const std::vector<Var>& inputs) {
  Tape* tape = nullptr;
  for (const Var& in : inputs) {
    if (!in.tape) continue;
    require(!tape || tape == in.tape, "tape: the inputs of an op belong to two tapes");
    tape = in.tape;
  }
  return tape;
}

void Tape::backward(const Var& y, Tensor dy) {
  require(y.tape == this, "tape: backward was asked for a value that this tape did not record");
  if (!dy) dy = full(ctx_, y.shape(), y.value.dtype(), 1.0);
  require(dy.shape() == y.shape(), "tape: the seed gradient has shape ", dy.shape(), ", the value ", y.shape());
  y.slot->collect(ctx_, std::move(dy));
  while (!steps_.empty()) {  // creation order reversed is a topological order
    const Step step = std::move(steps_.back());
    steps_.pop_back();                           // saved tensors die at the end of this iteration
    const Tensor g = std::move(step.out->grad);  // and so does the gradient they consumed
    step.out->grad = Tensor();
    if (g) step.run(ctx_, g, Grads(ctx_, step.inputs));
  }
}

std::int64_t Tape::saved_bytes() const {
  std::int64_t bytes = 0;
  for (const Step& step : steps_) bytes += step.saved_bytes;
  return bytes;
}

}  // namespace cbq
