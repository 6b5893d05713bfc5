// OPT (Zhang et al. 2022): LayerNorm, learned positions, plain feed-forward.
#include "models/families.h"

namespace cbq {

Var opt_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence) {
  const auto norm = [&](NormRole role, const Var& value) {
    return normalise(ctx, layers.norm(role), value, config.norm_eps);
  };
  // Adds the layer's output to its input, with the norm before the layer or, in OPT-350M, behind the sum.
  const auto residual = [&](NormRole role, const Var& in, const auto& layer) {
    if (config.pre_norm) return add_to_stream(ctx, in, layer(norm(role, in)));
    return norm(role, add_to_stream(ctx, in, layer(ops::cast(ctx, in, layers.norm(role).weight.value.dtype()))));
  };
  const Var h =
      residual(NormRole::attention, x, [&](const Var& in) { return attend(ctx, config, layers, in, sequence); });
  return residual(NormRole::mlp, h, [&](const Var& in) {
    const Var up = layers.linears(ctx, Site::mlp_in, in)[0];
    return layers.linears(ctx, Site::mlp_out, ops::activation(ctx, up, config.activation))[0];
  });
}

}  // namespace cbq
