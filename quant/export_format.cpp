#include "quant/export_format.h"

#include <algorithm>

namespace cbq {

using nlohmann::ordered_json;

std::vector<std::uint8_t> zero_codes(Context& ctx, const std::string& name, const HardWeight& hard) {
  const double last = double((1 << hard.spec.bits) - 1), middle = double(1 << (hard.spec.bits - 1));
  std::vector<std::uint8_t> codes;
  for (const float zero : to_host<float>(ctx, hard.zero)) {
    const bool is_allowed = hard.spec.symmetry == Symmetry::symmetric
                                ? zero == middle
                                : zero >= 0 && zero <= last && zero == float(int(zero));
    require(is_allowed, "export: ", name, ": found zero point ", zero, " in a grid of ", hard.spec.bits, " bits");
    codes.push_back(std::uint8_t(zero));
  }
  return codes;
}

ordered_json extra_quantisers(const ExportedModel& model, ListedActivations listed) {
  ordered_json extra = ordered_json::object(), activations = ordered_json::array();
  for_each_linear(model.config, model.specs, [&](const std::string& name, LinearRole, const LinearSpec& spec) {
    if (spec.activation.bits == 16 || (listed == ListedActivations::of_dense_weights && spec.weight.quantised()))
      return;
    const bool is_symmetric = spec.activation.symmetry == Symmetry::symmetric;
    auto group = std::ranges::find_if(activations, [&](const ordered_json& g) {
      return g["num_bits"] == spec.activation.bits && g["symmetric"] == is_symmetric;
    });
    if (group == activations.end()) {
      activations.push_back(
          {{"num_bits", spec.activation.bits}, {"symmetric", is_symmetric}, {"targets", ordered_json::array()}});
      group = activations.end() - 1;
    }
    (*group)["targets"].push_back(name);
  });
  if (!activations.empty()) extra["activations"] = activations;
  if (!model.activation_factors.empty()) extra["activation_factor"] = model.activation_factors;
  if (model.kv_cache.bits < 16) {
    extra["kv_bits"] = model.kv_cache.bits;
    extra["kv_symmetric"] = model.kv_cache.symmetry == Symmetry::symmetric;
  }
  return extra;
}

}  // namespace cbq
