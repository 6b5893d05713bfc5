#include "models/norm.h"

namespace cbq {

Var normalise(Context& ctx, const Norm& norm, const Var& x, double eps) {
  const DType stream = x.value.dtype(), layers = norm.weight.value.dtype();
  const Var weight = ops::cast(ctx, norm.weight, stream);
  const Var y = norm.bias.value ? ops::layer_norm(ctx, x, weight, ops::cast(ctx, norm.bias, stream), eps)
                                : ops::rms_norm(ctx, x, weight, eps);
  return ops::cast(ctx, y, layers);
}

}  // namespace cbq
