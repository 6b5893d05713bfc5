#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

struct EmbeddingNode {
  Tensor ids;
  Shape table_shape;
  std::int64_t saved_bytes() const { return bytes_of(ids); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dtable(ctx, table_shape, dy.dtype());
    ctx.kernels->embedding_backward(ctx, dtable, dy, ids);
    grads.set(0, std::move(dtable));
  }
};

}  // namespace

Var embedding(Context& ctx, const Var& table, const Tensor& ids) {
  require_matrix("embedding", "the table", table.value);
  require(ids && ids.shape().rank() == 1 && ids.dtype() == DType::i32, "embedding: expected ids (R) i32, got ",
          ids.shape(), " ", ids.dtype());
  Tensor y(ctx, {ids.count(), table.value.cols()}, table.value.dtype());
  ctx.kernels->embedding_forward(ctx, y, table.value, ids);
  return Tape::record(std::move(y), {table}, EmbeddingNode{ids, table.shape()});
}

}  // namespace cbq::ops
