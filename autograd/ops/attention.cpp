#include <cmath>

#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct AttentionNode {
  Tensor q, k, v, o, lse;
  AttentionShape shape;

  std::int64_t saved_bytes() const { return bytes_of(q, k, v, o, lse); }

  void backward(Context& ctx, const Tensor& d_o, const Grads& grads) const {
    const Tensor dq = grads.make(0, q), dk = grads.make(1, k), dv = grads.make(2, v);
    const Tensor q_heads = query(q), d_o_heads = query(contiguous(ctx, d_o));
    const double scale = 1 / std::sqrt(double(q_heads.size(3)));
    ctx.kernels->attention_backward(ctx, dq ? query(dq) : dq, dk ? key(dk) : dk, dv ? key(dv) : dv, d_o_heads, q_heads,
                                    key(k), key(v), query(o), lse, scale);
    grads.set(0, dq);
    grads.set(1, dk);
    grads.set(2, dv);
  }

  Tensor query(const Tensor& x) const { return x.heads(shape.batch, shape.heads); }
  Tensor key(const Tensor& x) const { return x.heads(shape.batch, shape.kv_heads); }
};

}  // namespace

Var attention(Context& ctx, const Var& q, const Var& k, const Var& v, const AttentionShape& shape) {
  require_matrix("attention", "q", q.value);
  require_matrix("attention", "k", k.value);
  const DType dtype = q.value.dtype();
  require(k.value.dtype() == dtype, "attention: q is ", dtype, ", k is ", k.value.dtype());
  require_tensor("attention", "v", v.value, k.shape(), dtype);
  require(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, "attention: ", shape.heads,
          " query heads do not divide among ", shape.kv_heads, " key heads");
  const Tensor q_heads = q.value.heads(shape.batch, shape.heads), k_heads = k.value.heads(shape.batch, shape.kv_heads);
  require(q_heads.size(3) == k_heads.size(3), "attention: q ", q.shape(), " has heads of ", q_heads.size(3), ", k ",
          k.shape(), " of ", k_heads.size(3));
  require(q_heads.size(1) <= k_heads.size(1), "attention: ", q_heads.size(1), " queries but only ", k_heads.size(1),
          " keys per sequence");
  Tensor o(ctx, q.shape(), dtype);
  Tensor lse(ctx, {shape.batch, shape.heads, q_heads.size(1)}, statistics_dtype(dtype));
  ctx.kernels->attention_forward(ctx, o.heads(shape.batch, shape.heads), lse, q_heads, k_heads,
                                 v.value.heads(shape.batch, shape.kv_heads), 1 / std::sqrt(double(q_heads.size(3))));
  return Tape::record(o, {q, k, v}, AttentionNode{q.value, k.value, v.value, o, std::move(lse), shape});
}

}  // namespace cbq::ops
