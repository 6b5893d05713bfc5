// OPT (Zhang et al. 2022): LayerNorm, learned positions, plain feed-forward.
#include "models/families.h"

namespace cbq {

Var opt_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence) {
  // layer(in, stream) is the stream plus a layer over `in`: with the norm before the layer or, in OPT-350M, behind the
  // sum.
  const auto residual = [&](NormRole role, const Var& stream, const auto& layer) {
    const Norm& norm = layers.norm(role);
    if (config.pre_norm) return layer(SiteInput::normalised(norm, stream, config.norm_eps), stream);
    const Var in = ops::cast(ctx, stream, norm.weight.value.dtype());
    return normalise(ctx, norm, layer(SiteInput(in), stream), config.norm_eps);
  };
  const Var h = residual(NormRole::attention, x, [&](const SiteInput& in, const Var& stream) {
    return attend(ctx, config, layers, in, stream, sequence);
  });
  return residual(NormRole::mlp, h, [&](const SiteInput& in, const Var& stream) {
    const Var up = layers.linears(ctx, Site::mlp_in, in, {})[0];
    return add_to_stream(ctx, layers, Site::mlp_out, SiteInput::activated(up, config.activation), stream);
  });
}

}  // namespace cbq
