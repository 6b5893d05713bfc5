#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct RopeNode {
  Tensor cos, sin;
  std::int64_t batch, head_count;
  std::int64_t saved_bytes() const { return bytes_of(cos, sin); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx(ctx, dy.shape(), dy.dtype());
    ctx.kernels->rope(ctx, dx.heads(batch, head_count), dy.heads(batch, head_count), cos, sin, Rotation::inverse);
    grads.set(0, std::move(dx));
  }
};

}  // namespace

Var rope(Context& ctx, const Var& x, const Tensor& cos, const Tensor& sin, std::int64_t batch,
         std::int64_t head_count) {
  require_matrix("rope", "x", x.value);
  const Tensor x_heads = x.value.heads(batch, head_count);
  const std::int64_t tokens = x_heads.size(1), dim = x_heads.size(3);
  require(dim % 2 == 0, "rope: the head size must be even, got ", dim);
  const DType angles = statistics_dtype(x.value.dtype());
  require_tensor("rope", "cos", cos, {tokens, dim / 2}, angles);
  require_tensor("rope", "sin", sin, {tokens, dim / 2}, angles);
  Tensor y(ctx, x.shape(), x.value.dtype());
  ctx.kernels->rope(ctx, y.heads(batch, head_count), x_heads, cos, sin, Rotation::forward);
  return Tape::record(std::move(y), {x}, RopeNode{cos, sin, batch, head_count});
}

}  // namespace cbq::ops
