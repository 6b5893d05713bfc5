#include <algorithm>
#include <cmath>

#include "models/packed.h"
#include "models/quantization_members.h"

namespace cbq {

using nlohmann::json;
using namespace quantization;

namespace {

void require_int_type(const json& args, const std::string& where) {
  const json* type = find(args, "type");
  if (type && *type != "int") fail_member(where, "type", "\"int\", the only type supported", type);
}

void read_weights(StoredScheme& scheme, const json& args, const std::string& where) {
  require_int_type(args, where);
  scheme.wbits = bits_of(args, "num_bits", 1, 8, where);
  scheme.symmetry = symmetry_of(args, "symmetric", where);
  const std::string strategy = text_of(args, "strategy", where);
  require_input(strategy == "group" || strategy == "channel", where,
                ": strategy: group and channel are supported, found ", quoted_text(strategy));
  if (strategy == "group") {
    const json* size = find(args, "group_size");
    if (!size || !size->is_number_integer() || *size < 1 || *size > kMaxGroupSize)
      fail_member(where, "group_size", "a positive whole number", size);
    scheme.group_size = size->get<std::int64_t>();
  }
  const json* order = find(args, "actorder");
  if (order && *order != "weight" && *order != "static" && *order != false)
    fail_member(where, "actorder", "null, \"weight\" or \"static\", the only orders supported", order);
}

void read_activations(StoredScheme& scheme, const json& args, const std::string& where) {
  require_int_type(args, where);
  scheme.abits = bits_of(args, "num_bits", 2, 8, where);
  scheme.activation_symmetry = symmetry_of(args, "symmetric", where);
  if (const json* d = find(args, "dynamic"); !d || *d != true)
    fail_member(where, "dynamic", "true: only dynamic activations are supported", d);
  if (const json* s = find(args, "strategy"); !s || *s != "token")
    fail_member(where, "strategy", "\"token\", the only strategy supported", s);
}

}  // namespace

QuantizationConfig::QuantizationConfig(const json& object, const std::string& where) {
  object_of(&object, where);
  const std::string method = text_of(object, "quant_method", where);
  if (method == "gptq") {
    read_gptq(object, where);
    return;
  }
  require_input(method == "compressed-tensors", where,
                ": quant_method: compressed-tensors and gptq are supported, found ", quoted_text(method),
                "; start from the full-precision checkpoint");
  for (const char* key : {"kv_cache_scheme", "sparsity_config", "transform_config"})
    if (const json* value = find(object, key); value && !(value->is_object() && value->empty()))
      fail_member(where, key, "nothing: it is not supported", value);
  const json* format = find(object, "format");
  if (format && !format->is_string()) fail_member(where, "format", "a string", format);
  const json& groups = object_of(find(object, "config_groups"), where + ": config_groups");
  for (const auto& [key, group] : groups.items())
    groups_.push_back(read_group(group, format ? format->get<std::string>() : "", where + ": " + quoted_text(key)));
  if (const json* list = find(object, "ignore")) ignored_ = read_targets(*list, where + ": ignore");
  if (const json* own = find(object, "cbq")) read_own(*own, where + ": cbq");
}

// bits, group_size (-1: the whole row) and sym of `object`; what it lacks is as in `base`.
StoredScheme QuantizationConfig::gptq_scheme(StoredScheme base, const json& object, const std::string& where) {
  if (find(object, "bits")) base.wbits = bits_of(object, "bits", 2, 8, where);
  if (find(object, "sym")) base.symmetry = symmetry_of(object, "sym", where);
  if (const json* size = find(object, "group_size")) {
    const bool fits = size->is_number_integer() && (*size == -1 || (*size > 0 && *size <= kMaxGroupSize));
    if (!fits) fail_member(where, "group_size", "-1 or a positive whole number", size);
    base.group_size = size->get<std::int64_t>();
  }
  require_input(base.wbits != 5 && base.wbits != 6 && base.wbits != 7, where,
                ": bits: 2, 3, 4 and 8 are supported, found ", base.wbits);
  return base;
}

void QuantizationConfig::read_gptq(const json& object, const std::string& where) {
  StoredScheme scheme;
  scheme.format = PackedFormat::gptq;
  const char* key = find(object, "checkpoint_format") ? "checkpoint_format" : "format";
  const std::string version = find(object, key) ? text_of(object, key, where) : "gptq";
  require_input(version == "gptq" || version == "gptq_v2", where, ": ", key, ": gptq and gptq_v2 are supported, found ",
                quoted_text(version));
  if (version == "gptq_v2") scheme.format = PackedFormat::gptq_v2;
  if (const json* words = find(object, "pack_dtype"); words && *words != "int32")
    fail_member(where, "pack_dtype", "\"int32\", the only one supported", words);
  if (!find(object, "bits")) fail_member(where, "bits", "a whole number from 2 to 8", nullptr);
  scheme = gptq_scheme(scheme, object, where);
  if (const json* dynamic = find(object, "dynamic"); dynamic && *dynamic != false)
    for (const auto& [pattern, own] : object_of(dynamic, where + ": dynamic").items()) {
      const bool is_signed = pattern.starts_with("+:") || pattern.starts_with("-:");
      const std::string place = where + ": dynamic: " + quoted_text(pattern);
      const auto targets = read_targets(json::array({"re:" + pattern.substr(is_signed ? 2 : 0)}), place);
      if (pattern.starts_with("-:"))
        ignored_.insert(ignored_.end(), targets.begin(), targets.end());
      else
        groups_.push_back({targets, gptq_scheme(scheme, object_of(&own, place), place)});
    }
  groups_.push_back({read_targets(json::array({"Linear"}), where), scheme});
}

QuantizationConfig QuantizationConfig::of_dense(const json& own, const std::string& where) {
  QuantizationConfig config;
  config.read_own(own, where);
  return config;
}

std::vector<QuantizationConfig::Target> QuantizationConfig::read_targets(const json& list, const std::string& where) {
  require_input(list.is_array(), where, ": expected a list, found ", list.type_name());
  std::vector<Target> targets;
  for (const json& entry : list) {
    require_input(entry.is_string(), where, ": expected strings, found ", quoted_text(entry.dump()));
    Target target{entry.get<std::string>(), std::nullopt};
    constexpr std::string_view kRegex = "re:";
    if (target.text.starts_with(kRegex))
      target.regex.emplace("\\A(?:" + target.text.substr(kRegex.size()) + ")", where);
    targets.push_back(std::move(target));
  }
  return targets;
}

QuantizationConfig::Group QuantizationConfig::read_group(const json& object, const std::string& format,
                                                         const std::string& where) {
  object_of(&object, where);
  Group group;
  const json* targets = find(object, "targets");
  if (!targets) fail_member(where, "targets", "a list", targets);
  group.targets = read_targets(*targets, where + ": targets");
  const std::string stored = find(object, "format") ? text_of(object, "format", where) : format;
  const bool packed = stored == "pack-quantized";
  require_input(packed || stored == "int-quantized", where,
                ": format: pack-quantized and int-quantized are supported, found ", quoted_text(stored));
  group.scheme.format = packed ? PackedFormat::pack_quantized : PackedFormat::int_quantized;
  if (const json* args = find(object, "weights"))
    read_weights(group.scheme, object_of(args, where + ": weights"), where + ": weights");
  if (const json* args = find(object, "input_activations"))
    read_activations(group.scheme, object_of(args, where + ": input_activations"), where + ": input_activations");
  if (const json* args = find(object, "output_activations"))
    fail_member(where, "output_activations", "null: it is not supported", args);
  return group;
}

void QuantizationConfig::read_own(const json& object, const std::string& where) {
  object_of(&object, where);
  if (find(object, "kv_bits")) kv_bits_ = bits_of(object, "kv_bits", 2, 16, where);
  kv_symmetry_ = symmetry_of(object, "kv_symmetric", where);
  if (const json* list = find(object, "activations")) read_own_activations(*list, where + ": activations");
  const json* factors = find(object, "activation_factor");
  if (!factors) return;
  for (const auto& [name, value] : object_of(factors, where + ": activation_factor").items()) {
    const bool fits = value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
    require_input(fits, where, ": activation_factor: ", quoted_text(name), ": expected a positive number, found ",
                  quoted_text(value.dump()));
    activation_factors_[name] = value.get<double>();
  }
}

void QuantizationConfig::read_own_activations(const json& list, const std::string& where) {
  require_input(list.is_array(), where, ": expected a list, found ", list.type_name());
  for (const json& entry : list) {
    StoredScheme scheme;
    scheme.abits = bits_of(object_of(&entry, where), "num_bits", 2, 8, where);
    scheme.activation_symmetry = symmetry_of(entry, "symmetric", where);
    const json* targets = find(entry, "targets");
    if (!targets) fail_member(where, "targets", "a list", targets);
    for (const Target& target : read_targets(*targets, where + ": targets")) own_activations_[target.text] = scheme;
  }
}

int QuantizationConfig::match(const std::vector<Target>& targets, const std::string& name) {
  int best = 0;
  for (const Target& target : targets) {
    if (target.text == name) return 3;
    if (target.regex && !target.regex->matches(name).empty()) best = std::max(best, 2);
    if (target.text == "Linear") best = std::max(best, 1);
  }
  return best;
}

StoredScheme QuantizationConfig::scheme(const std::string& name) const {
  StoredScheme scheme;
  int best = 0;
  if (match(ignored_, name) == 0)
    for (const Group& group : groups_)
      if (const int rank = match(group.targets, name); rank > best) {
        best = rank;
        scheme = group.scheme;
      }
  if (const auto own = own_activations_.find(name); best == 0 && own != own_activations_.end()) scheme = own->second;
  if (const auto found = activation_factors_.find(name); found != activation_factors_.end())
    scheme.activation_factor = found->second;
  return scheme;
}

}  // namespace cbq
