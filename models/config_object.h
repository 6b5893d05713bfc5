// The members of config.json, with errors that name file and key.
#pragma once

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/json.h"

namespace cbq {

// An object of config.json. A null value counts as absent.
class ConfigObject {
 public:
  ConfigObject(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
    require_input(object_.is_object(), where_, ": expected an object, found ", object_.type_name());
  }

  const std::string& where() const { return where_; }

  const nlohmann::json* find(const char* key) const {
    const auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  std::int64_t integer(const char* key, std::int64_t low, std::int64_t high) const {
    const nlohmann::json& value = required(key, value_text(low, high));
    require_input(is_integer_within(value, low, high), where_, ": ", key, ": expected ", value_text(low, high),
                  ", found ", quoted_text(value.dump()));
    return value.get<std::int64_t>();
  }
  std::int64_t integer_or(const char* key, std::int64_t low, std::int64_t high, std::int64_t absent) const {
    return find(key) ? integer(key, low, high) : absent;
  }
  double positive(const char* key) const {
    const nlohmann::json& value = required(key, "a positive number");
    const bool fits = value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
    require_input(fits, where_, ": ", key, ": expected a positive number, found ", quoted_text(value.dump()));
    return value.get<double>();
  }
  double positive_or(const char* key, double absent) const { return find(key) ? positive(key) : absent; }
  bool flag_or(const char* key, bool absent) const {
    const nlohmann::json* value = find(key);
    require_input(!value || value->is_boolean(), where_, ": ", key, ": expected true or false, found ",
                  value ? quoted_text(value->dump()) : "");
    return value ? value->get<bool>() : absent;
  }
  std::string text_or(const char* key, const char* absent) const {
    const nlohmann::json* value = find(key);
    require_input(!value || value->is_string(), where_, ": ", key, ": expected a string, found ",
                  value ? quoted_text(value->dump()) : "");
    return value ? value->get<std::string>() : absent;
  }
  // Token ids of one number or a list; negative ones mean none.
  std::vector<std::int32_t> token_ids(const char* key) const {
    const nlohmann::json* value = find(key);
    if (!value) return {};
    std::vector<std::int32_t> ids;
    for (const nlohmann::json& id : value->is_array() ? *value : nlohmann::json::array({*value})) {
      require_input(is_integer_within(id, INT32_MIN, INT32_MAX), where_, ": ", key,
                    ": expected a token id or a list of them, found ", quoted_text(value->dump()));
      if (id.get<std::int64_t>() >= 0) ids.push_back(id.get<std::int32_t>());
    }
    return ids;
  }
  // An option of which one value is supported.
  void expect(const char* key, bool supported) const {
    require_input(flag_or(key, supported) == supported, where_, ": ", key, ": only ", supported ? "true" : "false",
                  " is supported, found ", supported ? "false" : "true");
  }

 private:
  static std::string value_text(std::int64_t low, std::int64_t high) {
    return concat("a whole number from ", low, " to ", high);
  }
  static bool is_integer_within(const nlohmann::json& value, std::int64_t low, std::int64_t high) {
    if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t(INT64_MAX)) return false;
    return value.is_number_integer() && value.get<std::int64_t>() >= low && value.get<std::int64_t>() <= high;
  }
  const nlohmann::json& required(const char* key, const std::string& expected) const {
    const nlohmann::json* value = find(key);
    require_input(value, where_, ": expected the key \"", key, "\" with ", expected, ", not found");
    return *value;
  }

  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace cbq
