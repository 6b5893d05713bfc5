#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

Trans opposite(Trans t) {
  return t == Trans::no ? Trans::yes : Trans::no;
}

// y = op(a) op(b) + bias + addend gives d op(a) = dy op(b)^T, d op(b) = op(a)^T dy, dbias = column_sum(dy), daddend =
// dy.
struct MatmulNode {
  Tensor a, b;  // each empty when the other is constant
  Shape a_shape, b_shape;
  Trans trans_a, trans_b;

  std::int64_t saved_bytes() const { return bytes_of(a, b); }

  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    if (grads.wants(0)) {
      auto [da, addend] = grads.take(0, a_shape, dy.dtype());
      if (trans_a == Trans::no)
        ctx.kernels->matmul(ctx, da, dy, Trans::no, b, opposite(trans_b), {}, addend);
      else
        ctx.kernels->matmul(ctx, da, b, trans_b, dy, Trans::yes, {}, addend);
      grads.set(0, std::move(da));
    }
    if (grads.wants(1)) {
      auto [db, addend] = grads.take(1, b_shape, dy.dtype());
      if (trans_b == Trans::no)
        ctx.kernels->matmul(ctx, db, a, opposite(trans_a), dy, Trans::no, {}, addend);
      else
        ctx.kernels->matmul(ctx, db, dy, Trans::yes, a, trans_a, {}, addend);
      grads.set(1, std::move(db));
    }
    if (grads.wants(2)) {
      Tensor dbias(ctx, {dy.cols()}, dy.dtype());
      ctx.kernels->column_sum(ctx, dbias, dy);
      grads.set(2, std::move(dbias));
    }
    grads.set(3, dy);
  }
};

}  // namespace

Var matmul(Context& ctx, const Var& a, Trans trans_a, const Var& b, Trans trans_b, const Var& bias, const Var& addend) {
  require_matrix("matmul", "a", a.value);
  require_matrix("matmul", "b", b.value);
  const DType dtype = a.value.dtype();
  require(b.value.dtype() == dtype, "matmul: a is ", dtype, ", b is ", b.value.dtype(), "; convert one of them");
  const int a_outer = trans_a == Trans::no ? 0 : 1, b_outer = trans_b == Trans::no ? 1 : 0;
  require(a.shape()[1 - a_outer] == b.shape()[1 - b_outer], "matmul: a ", a.shape(), a_outer ? "^T" : "", " x b ",
          b.shape(), b_outer ? "" : "^T", " do not chain");
  Tensor y(ctx, {a.shape()[a_outer], b.shape()[b_outer]}, dtype);
  if (bias.value) require_tensor("matmul", "bias", bias.value, {y.cols()}, dtype);
  if (addend.value) require_tensor("matmul", "addend", addend.value, y.shape(), dtype);
  if (a.integers && b.integers && trans_a == Trans::no && trans_b == Trans::yes)
    ctx.kernels->matmul_integers(ctx, y, a.integers.views(), b.integers.views(), bias.value, addend.value);
  else
    ctx.kernels->matmul(ctx, y, a.value, trans_a, b.value, trans_b, bias.value, addend.value);
  return Tape::record(std::move(y), {a, b, bias, addend},
                      MatmulNode{b.needs_grad() ? a.value : Tensor(), a.needs_grad() ? b.value : Tensor(), a.shape(),
                                 b.shape(), trans_a, trans_b});
}

Var linear(Context& ctx, const Var& x, const Var& w, const Var& bias, const Var& addend) {
  return matmul(ctx, x, Trans::no, w, Trans::yes, bias, addend);
}

}  // namespace cbq::ops
