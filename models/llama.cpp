// LLaMA (Touvron et al. 2023), Mistral and Qwen2: RMSNorm, rotary positions, gated feed-forward.
#include <cmath>
#include <numbers>

#include "models/families.h"

namespace cbq {

double rope_frequency(const ModelConfig& config, std::int64_t i) {
  const double f = std::pow(config.rope_theta, -2.0 * double(i) / double(config.head_dim));
  if (!config.rope_factors.empty()) return f / config.rope_factors.at(std::size_t(i));
  if (!config.rope_scaling) return f;
  const Llama3Scaling& s = *config.rope_scaling;
  const double wavelength = 2 * std::numbers::pi / f;  // tokens a turn
  if (wavelength < s.original_max_positions / s.high_freq_factor) return f;
  if (wavelength > s.original_max_positions / s.low_freq_factor) return f / s.factor;
  const double smooth =
      (s.original_max_positions / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  return (1 - smooth) * f / s.factor + smooth * f;
}

RopeTables rope_tables(Context& ctx, const ModelConfig& config, std::int64_t begin, std::int64_t tokens, DType dtype) {
  const std::int64_t half = config.head_dim / 2;
  std::vector<double> frequencies(static_cast<std::size_t>(half));
  for (std::int64_t i = 0; i < half; ++i) frequencies[std::size_t(i)] = rope_frequency(config, i);
  std::vector<double> cos, sin;
  for (std::int64_t t = begin; t < begin + tokens; ++t)
    for (const double f : frequencies) {
      cos.push_back(std::cos(double(t) * f));
      sin.push_back(std::sin(double(t) * f));
    }
  const DType angles = statistics_dtype(dtype);
  return {from_host<double>(ctx, {tokens, half}, angles, cos), from_host<double>(ctx, {tokens, half}, angles, sin)};
}

Var llama_block(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence) {
  const auto normed = [&](NormRole role, const Var& value) {
    return SiteInput::normalised(layers.norm(role), value, config.norm_eps);
  };
  const Var h = attend(ctx, config, layers, normed(NormRole::attention, x), x, sequence);
  const std::vector<Var> gate_up = layers.linears(ctx, Site::mlp_in, normed(NormRole::mlp, h), {});
  return add_to_stream(ctx, layers, Site::mlp_out, SiteInput::gated(gate_up[0], gate_up[1]), h);
}

}  // namespace cbq
