#include "quant/config_structured_keys.h"

#include <algorithm>

#include "core/json.h"
#include "quant/config_fields.h"
#include "quant/export.h"

namespace cbq {

namespace {

using nlohmann::ordered_json;

const char* const kOverrideAllowed = "an object with match and at least one of wbits, abits, group_size and sym";

LayerOverride read_override(const ConfigValue& value) {
  if (!value.json().is_object() || value.json().size() < 2 || !value.json().contains("match"))
    value.reject(kOverrideAllowed);
  LayerOverride result;
  for (const auto& item : value.json().items()) {
    const ConfigValue member = value.member(item.key());
    const auto known = std::find_if(key_aliases().begin(), key_aliases().end(),
                                    [&](const KeyAlias& alias) { return alias.alias == item.key(); });
    const std::string key(known == key_aliases().end() ? item.key() : known->key);
    require_input(key == item.key() || !value.json().contains(key), member.place(), ": ", item.key(),
                  " is another name of ", key, ", which is given too; give one of them");
    if (key == "match") {
      if (!member.json().is_string() || member.json() == "") member.reject("a pattern of layer names");
      result.match = member.json();
    } else if (key == "wbits") {
      result.wbits = weight_bits().read(member);
    } else if (key == "abits") {
      result.abits = activation_bits().read(member);
    } else if (key == "group_size") {
      result.group_size = GroupSize().read(member);
    } else if (key == "sym") {
      result.sym = Switch().read(member);
    } else {
      fail(ErrorKind::bad_input, member.place(), ": expected ", kOverrideAllowed, ", found ", quoted_text(item.key()),
           "; did you mean ", nearest_name(item.key(), {"match", "wbits", "abits", "group_size", "sym"}), "?");
    }
  }
  return result;
}

}  // namespace

ConfigKey schedule_key() {
  const Choices<Schedule> choices{
      {{"cosine", Schedule::cosine}, {"linear", Schedule::linear}, {"constant", Schedule::constant}}};
  const std::string allowed = choices.allowed() + ", or null (linear for sign, else cosine)";
  const auto read = [=](RunConfig& config, const ConfigValue& value) {
    config.schedule.reset();
    if (!value.json().is_null()) config.schedule = choices.read(value);
  };
  const auto write = [=](const RunConfig& config) {
    return config.schedule ? ordered_json(choices.name_of(*config.schedule)) : ordered_json(nullptr);
  };
  return {"schedule", allowed, "how the learning rates of a window decay", read, write};
}

ConfigKey overrides_key() {
  const std::string allowed = "a list of objects";
  const auto read = [=](RunConfig& config, const ConfigValue& value) {
    if (!value.json().is_array()) value.reject(allowed);
    config.overrides.clear();
    for (std::size_t i = 0; i < value.json().size(); ++i) config.overrides.push_back(read_override(value.entry(i)));
  };
  const auto write = [](const RunConfig& config) {
    ordered_json list = ordered_json::array();
    for (const LayerOverride& override : config.overrides) {
      ordered_json entry{{"match", override.match}};
      if (override.wbits) entry["wbits"] = *override.wbits;
      if (override.abits) entry["abits"] = *override.abits;
      if (override.group_size) entry["group_size"] = *override.group_size;
      if (override.sym) entry["sym"] = *override.sym;
      list.push_back(std::move(entry));
    }
    return list;
  };
  return {"overrides", allowed, "other grids for layers whose name matches a pattern (* and ?), the last match wins",
          read, write};
}

ConfigKey exports_key() {
  Choices<Export> choices;
  for (const ExportFormat& format : export_formats()) choices.choices.push_back({format.name, format.id});
  const auto read = [=](RunConfig& config, const ConfigValue& value) {
    config.exports.clear();
    const auto add = [&](const ConfigValue& one) {
      const Export format = choices.read(one);
      const bool is_new = std::ranges::find(config.exports, format) == config.exports.end();
      if (!is_new) one.reject("each format once");
      config.exports.push_back(format);
    };
    if (!value.json().is_array()) return add(value);
    if (value.json().empty()) value.reject(choices.allowed());
    for (std::size_t i = 0; i < value.json().size(); ++i) add(value.entry(i));
  };
  const auto write = [=](const RunConfig& config) {
    if (config.exports.size() == 1) return ordered_json(choices.name_of(config.exports[0]));
    ordered_json list = ordered_json::array();
    for (const Export format : config.exports) list.push_back(choices.name_of(format));
    return list;
  };
  return {"export", concat(choices.allowed(), ", or a list of them"),
          "formats of the result: the first in output_dir, others in folders of their names below it", read, write};
}

}  // namespace cbq
