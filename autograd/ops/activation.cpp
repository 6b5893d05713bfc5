#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct SoftmaxNode {
  Tensor y;
  std::int64_t saved_bytes() const { return bytes_of(y); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, y);
    ctx.kernels->softmax_backward(ctx, dx, dy, y);
    grads.set(0, std::move(dx));
  }
};

struct ActivationNode {
  Tensor x;
  Activation kind;
  std::int64_t saved_bytes() const { return bytes_of(x); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, x);
    ctx.kernels->activation_backward(ctx, dx, dy, x, kind);
    grads.set(0, std::move(dx));
  }
};

struct GatedNode {
  Tensor gate, up;
  std::int64_t saved_bytes() const { return bytes_of(gate, up); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dgate = grads.make(0, gate), dup = grads.make(1, up);
    ctx.kernels->gated_backward(ctx, dgate, dup, dy, gate, up);
    grads.set(0, std::move(dgate));
    grads.set(1, std::move(dup));
  }
};

}  // namespace

Var softmax(Context& ctx, const Var& x) {
  require_float("softmax", "x", x.value);
  require(x.value.cols() > 0, "softmax: x ", x.shape(), " has no columns");
  Tensor y(ctx, x.shape(), x.value.dtype());
  ctx.kernels->softmax_forward(ctx, y, x.value);
  return Tape::record(y, {x}, SoftmaxNode{y});
}

Var activation(Context& ctx, const Var& x, Activation kind) {
  require_float("activation", "x", x.value);
  Tensor y(ctx, x.shape(), x.value.dtype());
  ctx.kernels->activation_forward(ctx, y, x.value, kind);
  return Tape::record(std::move(y), {x}, ActivationNode{x.value, kind});
}

Var gated(Context& ctx, const Var& gate, const Var& up) {
  require_alike("gated", gate.value, up.value);
  Tensor y(ctx, gate.shape(), gate.value.dtype());
  ctx.kernels->gated_forward(ctx, y, gate.value, up.value);
  return Tape::record(std::move(y), {gate, up}, GatedNode{gate.value, up.value});
}

}  // namespace cbq::ops
