#include "models/site_input.h"

namespace cbq {

std::int64_t SiteInput::rows() const {
  if (const auto* from = std::get_if<Normalised>(&from_)) return from->x.value.rows();
  if (const auto* from = std::get_if<Activated>(&from_)) return from->x.value.rows();
  if (const auto* from = std::get_if<Gated>(&from_)) return from->gate.value.rows();
  return std::get<Var>(from_).value.rows();
}

Var SiteInput::value(Context& ctx) const {
  if (const auto* from = std::get_if<Normalised>(&from_)) return normalise(ctx, *from->norm, from->x, from->eps);
  if (const auto* from = std::get_if<Activated>(&from_)) return ops::activation(ctx, from->x, from->kind);
  if (const auto* from = std::get_if<Gated>(&from_)) return ops::gated(ctx, from->gate, from->up);
  return std::get<Var>(from_);
}

Var SiteInput::quantised(Context& ctx, const ops::ActivationQuantiserVars& quantiser) const {
  if (const auto* from = std::get_if<Normalised>(&from_)) {
    const auto& [w, b] = *from->norm;
    const bool is_constant = !w.needs_grad() && !b.needs_grad();
    if (is_constant && from->x.value.dtype() == w.value.dtype())
      return b.value ? ops::layer_norm_quant(ctx, from->x, w.value, b.value, from->eps, quantiser)
                     : ops::rms_norm_quant(ctx, from->x, w.value, from->eps, quantiser);
  }
  if (const auto* from = std::get_if<Activated>(&from_))
    return ops::activation_quant(ctx, from->x, from->kind, quantiser);
  if (const auto* from = std::get_if<Gated>(&from_)) return ops::gated_quant(ctx, from->gate, from->up, quantiser);
  return ops::fake_quant(ctx, value(ctx), quantiser);
}

}  // namespace cbq
