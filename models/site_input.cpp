#include "models/site_input.h"

namespace cbq {

std::int64_t SiteInput::rows() const {
  if (const auto* from = std::get_if<Normalised>(&from_)) return from->x.value.rows();
  if (const auto* from = std::get_if<Gated>(&from_)) return from->gate.value.rows();
  return std::get<Var>(from_).value.rows();
}

Var SiteInput::value(Context& ctx) const {
  if (const auto* from = std::get_if<Normalised>(&from_)) return normalise(ctx, *from->norm, from->x, from->eps);
  if (const auto* from = std::get_if<Gated>(&from_)) return ops::gated(ctx, from->gate, from->up);
  return std::get<Var>(from_);
}

Var SiteInput::quantised(Context& ctx, const ops::ActivationQuantiserVars& quantiser) const {
  if (const auto* from = std::get_if<Normalised>(&from_)) {
    const Var& w = from->norm->weight;
    const bool is_rms_norm = !from->norm->bias.value, is_one_type = from->x.value.dtype() == w.value.dtype();
    if (is_rms_norm && is_one_type && !w.needs_grad())
      return ops::rms_norm_quant(ctx, from->x, w.value, from->eps, quantiser);
  }
  if (const auto* from = std::get_if<Gated>(&from_)) return ops::gated_quant(ctx, from->gate, from->up, quantiser);
  return ops::fake_quant(ctx, value(ctx), quantiser);
}

}  // namespace cbq
