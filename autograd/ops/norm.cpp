#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct RmsNormNode {
  Tensor x, w, rstd;
  std::int64_t saved_bytes() const { return bytes_of(x, w, rstd); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, x), dw = grads.make(1, w);
    ctx.kernels->rms_norm_backward(ctx, dx, dw, dy, x, w, rstd);
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dw));
  }
};

struct LayerNormNode {
  Tensor x, w, mean, rstd;
  std::int64_t saved_bytes() const { return bytes_of(x, w, mean, rstd); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, x), dw = grads.make(1, w), db = grads.make(2, w);
    ctx.kernels->layer_norm_backward(ctx, dx, dw, db, dy, x, w, mean, rstd);
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dw));
    grads.set(2, std::move(db));
  }
};

// With eps = 0 a row of zeros would give NaN.
void require_norm(const char* op, const Tensor& x, double eps) {
  require_float(op, "x", x);
  require(x.cols() > 0, op, ": x ", x.shape(), " has no columns");
  require(eps > 0, op, ": eps must be positive, got ", eps);
}

}  // namespace

Var rms_norm(Context& ctx, const Var& x, const Var& w, double eps) {
  require_norm("rms_norm", x.value, eps);
  const DType dtype = x.value.dtype();
  require_tensor("rms_norm", "w", w.value, {x.value.cols()}, dtype);
  Tensor y(ctx, x.shape(), dtype), rstd(ctx, {x.value.rows()}, statistics_dtype(dtype));
  ctx.kernels->rms_norm_forward(ctx, y, rstd, x.value, w.value, eps);
  return Tape::record(std::move(y), {x, w}, RmsNormNode{x.value, w.value, std::move(rstd)});
}

Var layer_norm(Context& ctx, const Var& x, const Var& w, const Var& b, double eps) {
  require_norm("layer_norm", x.value, eps);
  const DType dtype = x.value.dtype();
  require_tensor("layer_norm", "w", w.value, {x.value.cols()}, dtype);
  require_tensor("layer_norm", "b", b.value, {x.value.cols()}, dtype);
  Tensor y(ctx, x.shape(), dtype), mean(ctx, {x.value.rows()}, statistics_dtype(dtype));
  Tensor rstd(ctx, mean.shape(), mean.dtype());
  ctx.kernels->layer_norm_forward(ctx, y, mean, rstd, x.value, w.value, b.value, eps);
  return Tape::record(std::move(y), {x, w, b}, LayerNormNode{x.value, w.value, std::move(mean), std::move(rstd)});
}

}  // namespace cbq::ops
