#include "quant/config.h"

#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "core/files.h"
#include "core/json.h"
#include "quant/config_fields.h"
#include "quant/config_keys.h"

namespace cbq {

namespace {

using nlohmann::json;
using Given = std::map<std::string, ConfigValue>;  // by the key's own name, aliases resolved

constexpr std::string_view kScheme = "scheme", kEval = "eval";

// The key that `name` stands for, "" when there is none.
std::string key_called(const std::string& name, const std::string& prefix) {
  std::string key = name;
  for (const KeyAlias& alias : key_aliases())
    if (alias.alias == name) key = alias.key;
  key = prefix + key;
  const auto is_it = [&](const ConfigKey& candidate) { return candidate.name == key; };
  const bool is_known = std::any_of(config_keys().begin(), config_keys().end(), is_it);
  return is_known && key.find('.', prefix.size()) == std::string::npos ? key : "";
}

// Names that an object may hold, for the hint about an unknown one.
std::vector<std::string> names_in(const std::string& prefix) {
  std::vector<std::string> names;
  for (const ConfigKey& key : config_keys())
    if (key.name.starts_with(prefix))
      names.push_back(key.name.substr(prefix.size(), key.name.find('.', prefix.size())));
  if (prefix.empty()) {
    names.emplace_back(kScheme);
    for (const KeyAlias& alias : key_aliases()) names.emplace_back(alias.alias);
  }
  return names;
}

// Adds what an object gives: the whole configuration, or the part that `prefix` names.
void collect(Given& given, const ConfigValue& object, const std::string& prefix) {
  for (const auto& item : object.json().items()) {
    const ConfigValue value = object.member(item.key());
    if (prefix.empty() && item.key() == kEval) {
      if (!value.json().is_object()) value.reject("an object");
      collect(given, value, concat(kEval, "."));
      continue;
    }
    std::string key = key_called(item.key(), prefix);
    if (prefix.empty() && item.key() == kScheme) key = kScheme;
    if (key.empty())
      fail(ErrorKind::bad_input, value.place(), ": expected a known key, found ", quoted_text(prefix + item.key()),
           "; did you mean ", prefix, nearest_name(item.key(), names_in(prefix)), "?");
    const auto [entry, is_new] = given.emplace(key, value);
    if (!is_new)
      fail(ErrorKind::bad_input, value.place(), ": expected each key once, found ", entry->second.name(), " and ",
           value.name(), ", which are the same; give one of them");
  }
}

// Replaces a scheme such as W4A16_ASYM by the keys it stands for, which must not contradict those given beside it.
void expand_scheme(Given& given) {
  const auto entry = given.find(std::string(kScheme));
  if (entry == given.end()) return;
  const ConfigValue scheme = entry->second;
  given.erase(entry);
  for (int wbits : weight_bits().widths)
    for (int abits : activation_bits().widths)
      for (bool sym : {true, false}) {
        if (scheme.json() != concat("W", wbits, "A", abits, sym ? "" : "_ASYM")) continue;
        for (const auto& [key, value] :
             {std::pair<std::string, json>("wbits", wbits), {"abits", abits}, {"sym", sym}}) {
          const auto [other, is_new] = given.emplace(key, scheme.with(value));
          if (!is_new && other->second.json() != value)
            other->second.reject(concat(value.dump(), " as scheme ", scheme.json().dump(), " says, or no scheme"));
        }
        return;
      }
  scheme.reject(concat("W<bits>A<bits> or W<bits>A<bits>_ASYM with ", weight_bits().allowed(), " bits for weights and ",
                       activation_bits().allowed(), " for activations"));
}

Given read_all(const ConfigValue& file, const std::vector<std::string>& settings) {
  Given given, set;
  collect(given, file, "");
  expand_scheme(given);
  for (const std::string& setting : settings) {
    Given one;
    collect(one, read_setting(setting), "");
    for (const auto& [key, value] : one) set.insert_or_assign(key, value);
  }
  expand_scheme(set);
  for (const auto& [key, value] : set) given.insert_or_assign(key, value);
  return given;
}

// Rules between keys. Each error is placed at a key that was given.
void check_together(const RunConfig& config, const Given& given, const std::string& file) {
  const auto check = [&](bool holds, std::initializer_list<const char*> keys, const auto&... parts) {
    if (holds) return;
    const auto at = std::find_if(keys.begin(), keys.end(), [&](const char* key) { return given.contains(key); });
    fail(ErrorKind::bad_input, at == keys.end() ? file : given.at(*at).place(), ": ", parts...);
  };
  for (const char* key : {"model", "output_dir"})
    check(given.contains(key), {}, "expected the key ", key, ", found none; add \"", key, "\": \"FOLDER\"");
  const bool needs_data = config.method != Method::rtn || (config.cfp != CfpPreset::off && config.cfp_activations);
  check(!needs_data || !config.dataset.empty(), {"dataset", "method", "cfp"},
        "dataset: expected at least one file, found none; only method rtn without cfp_activations needs no text");
  check(config.output_dir != config.model, {"output_dir"},
        "output_dir: expected another folder than that of the model, found the same");
  check(config.overlap < config.window, {"overlap", "window"}, "overlap: expected less than window (", config.window,
        "), found ", config.overlap);
  check(config.l2 > 0 || config.kl > 0, {"l2", "kl"}, "l2 and kl: expected one above 0, found both 0");
  check(config.beta_end <= config.beta_start, {"beta_end", "beta_start"}, "beta_end: expected at most beta_start (",
        config.beta_start, "), found ", config.beta_end);
  check(config.anneal_start + config.hard_fraction <= 1, {"hard_fraction", "anneal_start"},
        "anneal_start + hard_fraction: expected at most 1, found ", config.anneal_start + config.hard_fraction);
}

struct LearningRates {
  double rounding, scale;  // scale: relative to where the step size starts
};

// docs/method.md, "Defaults": found on models of 24 M parameters.
LearningRates default_rates(const RunConfig& config) {
  switch (config.rounding) {
    case RoundingKind::nearest: return {0, 1e-3};  // nothing of the rounding is learned
    case RoundingKind::lora: return {1e-2, 1e-4};
    case RoundingKind::lora_ste:
      if (config.rounding_start == RoundingStart::gptq && config.abits == 16)
        return {config.wbits == 2 ? 3e-3 : config.wbits == 3 ? 1e-4 : 1e-5, 3e-4};
      return {1e-2, 1e-3};
    case RoundingKind::dense: return {1e-2, 1e-4};
    case RoundingKind::sign: return {5e-3, 5e-3};
    case RoundingKind::weights: return {2e-4, 1e-3};
  }
  fail(ErrorKind::failure, "config: no learning rates for rounding kind ", int(config.rounding));
}

}  // namespace

double RunConfig::rounding_lr() const {
  return lr > 0 ? lr : default_rates(*this).rounding;
}
double RunConfig::scale_lr() const {
  return lr_scale > 0 ? lr_scale : default_rates(*this).scale;
}
Schedule RunConfig::rounding_schedule() const {
  return schedule.value_or(rounding == RoundingKind::sign ? Schedule::linear : Schedule::cosine);
}

RunConfig parse_run_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                           const std::vector<std::string>& settings) {
  const json root = parse_json_text(text, name);
  const ConfigValue file(std::make_shared<const ConfigSource>(ConfigSource{name, text, folder}), root);
  if (!root.is_object()) file.reject("an object");
  const Given given = read_all(file, settings);
  RunConfig config;
  for (const ConfigKey& key : config_keys())
    if (const auto value = given.find(key.name); value != given.end()) key.read(config, value->second);
  if (!given.contains("eval.seqlen")) config.eval.seqlen = config.seqlen;
  if (!given.contains("overlap")) config.overlap = std::min(config.overlap, config.window - 1);
  check_together(config, given, name);
  return config;
}

RunConfig read_run_config(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  constexpr std::int64_t kLargestBytes = 1 << 20;  // a thousand overrides fit
  return parse_run_config(read_file(file, kLargestBytes), file.string(), std::filesystem::absolute(file).parent_path(),
                          settings);
}

}  // namespace cbq
