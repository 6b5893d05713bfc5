#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct AddNode {
  std::int64_t saved_bytes() const { return 0; }
  void backward(Context&, const Tensor& dy, const Grads& grads) const {
    grads.set(0, dy);
    grads.set(1, dy);
  }
};

struct MulNode {
  Tensor a, b;  // each empty when the other is constant
  std::int64_t saved_bytes() const { return bytes_of(a, b); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor da = grads.make(0, dy), db = grads.make(1, dy);
    if (da) ctx.kernels->mul(ctx, da, dy, b);
    if (db) ctx.kernels->mul(ctx, db, dy, a);
    grads.set(0, std::move(da));
    grads.set(1, std::move(db));
  }
};

struct ScaleNode {
  double alpha;
  std::int64_t saved_bytes() const { return 0; }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, dy);
    ctx.kernels->scale(ctx, dx, dy, alpha);
    grads.set(0, std::move(dx));
  }
};

struct ScaledExpNode {
  Tensor y;
  std::int64_t saved_bytes() const { return bytes_of(y); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, dy);
    ctx.kernels->mul(ctx, dx, dy, y);
    grads.set(0, std::move(dx));
  }
};

struct MeanNode {
  Shape shape;
  DType dtype;
  std::int64_t saved_bytes() const { return 0; }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx(ctx, shape, dtype);
    ctx.kernels->mean_backward(ctx, dx, dy);
    grads.set(0, std::move(dx));
  }
};

struct CastNode {
  DType dtype;  // of x
  std::int64_t saved_bytes() const { return 0; }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const { grads.set(0, convert(ctx, dy, dtype)); }
};

struct ReshapeNode {
  Shape shape;
  std::int64_t saved_bytes() const { return 0; }
  void backward(Context&, const Tensor& dy, const Grads& grads) const { grads.set(0, dy.reshape(shape)); }
};

}  // namespace

Var add(Context& ctx, const Var& a, const Var& b) {
  require_alike("add", a.value, b.value);
  Tensor y(ctx, a.shape(), a.value.dtype());
  ctx.kernels->add(ctx, y, a.value, b.value);
  return Tape::record(std::move(y), {a, b}, AddNode{});
}

Var mul(Context& ctx, const Var& a, const Var& b) {
  require_alike("mul", a.value, b.value);
  Tensor y(ctx, a.shape(), a.value.dtype());
  ctx.kernels->mul(ctx, y, a.value, b.value);
  return Tape::record(std::move(y), {a, b},
                      MulNode{b.needs_grad() ? a.value : Tensor(), a.needs_grad() ? b.value : Tensor()});
}

Var scale(Context& ctx, const Var& x, double alpha) {
  require_float("scale", "x", x.value);
  Tensor y(ctx, x.shape(), x.value.dtype());
  ctx.kernels->scale(ctx, y, x.value, alpha);
  return Tape::record(std::move(y), {x}, ScaleNode{alpha});
}

Var scaled_exp(Context& ctx, const Tensor& base, const Var& x) {
  require_alike("scaled_exp", base, x.value);
  Tensor y(ctx, x.shape(), x.value.dtype());
  ctx.kernels->scaled_exp(ctx, y, base, x.value);
  return Tape::record(y, {x}, ScaledExpNode{y});
}

Var mean(Context& ctx, const Var& x) {
  require_float("mean", "x", x.value);
  require(x.value.count() > 0, "mean: ", x.shape(), " has no elements");
  Tensor y(ctx, {1}, statistics_dtype(x.value.dtype()));
  ctx.kernels->mean_forward(ctx, y, x.value);
  return Tape::record(std::move(y), {x}, MeanNode{x.shape(), x.value.dtype()});
}

Var cast(Context& ctx, const Var& x, DType dtype) {
  require_float("cast", "x", x.value);
  if (x.value.dtype() == dtype) return x;
  return Tape::record(convert(ctx, x.value, dtype), {x}, CastNode{x.value.dtype()});
}

Var reshape(Context&, const Var& x, Shape shape) {
  return Tape::record(x.value.reshape(shape), {x}, ReshapeNode{x.shape()});
}

}  // namespace cbq::ops
