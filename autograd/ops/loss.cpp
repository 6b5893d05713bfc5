#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct MseNode {
  Tensor a, b;
  std::int64_t saved_bytes() const { return bytes_of(a, b); }
  void backward(Context& ctx, const Tensor& dloss, const Grads& grads) const {
    Tensor da = grads.make(0, a), db = grads.make(1, b);
    ctx.kernels->mse_backward(ctx, da, db, dloss, a, b);
    grads.set(0, std::move(da));
    grads.set(1, std::move(db));
  }
};

struct KlNode {
  Tensor a, b;
  std::int64_t saved_bytes() const { return bytes_of(a, b); }
  void backward(Context& ctx, const Tensor& dloss, const Grads& grads) const {
    Tensor da = grads.make(0, a), db = grads.make(1, b);
    ctx.kernels->kl_backward(ctx, da, db, dloss, a, b);
    grads.set(0, std::move(da));
    grads.set(1, std::move(db));
  }
};

struct CrossEntropyNode {
  Tensor logits, targets;
  std::int64_t saved_bytes() const { return bytes_of(logits, targets); }
  void backward(Context& ctx, const Tensor& dloss, const Grads& grads) const {
    Tensor dlogits = grads.make(0, logits);
    ctx.kernels->cross_entropy_backward(ctx, dlogits, dloss, logits, targets);
    grads.set(0, std::move(dlogits));
  }
};

}  // namespace

Var mse(Context& ctx, const Var& a, const Var& b) {
  require_alike("mse", a.value, b.value);
  require(a.value.count() > 0, "mse: ", a.shape(), " has no elements");
  Tensor loss(ctx, {1}, statistics_dtype(a.value.dtype()));
  ctx.kernels->mse_forward(ctx, loss, a.value, b.value);
  return Tape::record(std::move(loss), {a, b}, MseNode{a.value, b.value});
}

Var kl_divergence(Context& ctx, const Var& a, const Var& b) {
  require_alike("kl_divergence", a.value, b.value);
  require(a.value.count() > 0, "kl_divergence: ", a.shape(), " has no elements");
  Tensor loss(ctx, {a.value.rows()}, statistics_dtype(a.value.dtype()));
  ctx.kernels->kl_forward(ctx, loss, a.value, b.value);
  return mean(ctx, Tape::record(std::move(loss), {a, b}, KlNode{a.value, b.value}));
}

Var cross_entropy(Context& ctx, const Var& logits, const Tensor& targets) {
  require_matrix("cross_entropy", "the logits", logits.value);
  require(targets && targets.shape() == Shape{logits.value.rows()} && targets.dtype() == DType::i32,
          "cross_entropy: expected targets (", logits.value.rows(), ") i32, got ", targets.shape(), " ",
          targets.dtype());
  Tensor loss(ctx, {logits.value.rows()}, statistics_dtype(logits.value.dtype()));
  ctx.kernels->cross_entropy_forward(ctx, loss, logits.value, targets);
  return mean(ctx, Tape::record(std::move(loss), {logits}, CrossEntropyNode{logits.value, targets}));
}

}  // namespace cbq::ops
