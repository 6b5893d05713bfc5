#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct RmsNormNode {
  Tensor x, w, rstd;
  std::int64_t saved_bytes() const { return bytes_of(x, w, rstd); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dw = grads.make(1, w);
    auto [dx, addend] = dw ? Grads::Target{grads.make(0, x), {}} : grads.take(0, x.shape(), x.dtype());
    ctx.kernels->rms_norm_backward(ctx, dx, dw, dy, x, w, rstd, addend);
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dw));
  }
};

struct LayerNormNode {
  Tensor x, w, mean, rstd;
  std::int64_t saved_bytes() const { return bytes_of(x, w, mean, rstd); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dw = grads.make(1, w), db = grads.make(2, w);
    auto [dx, addend] = dw || db ? Grads::Target{grads.make(0, x), {}} : grads.take(0, x.shape(), x.dtype());
    ctx.kernels->layer_norm_backward(ctx, dx, dw, db, dy, x, w, mean, rstd, addend);
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dw));
    grads.set(2, std::move(db));
  }
};

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
