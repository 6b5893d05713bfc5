// Members of the objects that describe quantisation, with errors that name place and key. A null value counts as
// absent.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/json.h"
#include "core/kernel_args.h"

namespace cbq::quantization {

constexpr std::int64_t kMaxGroupSize = 1 << 24;

// The member, or null when it is absent or null.
inline const nlohmann::json* find(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] inline void fail_member(const std::string& where, const char* key, const char* expected,
                                     const nlohmann::json* found) {
  fail(ErrorKind::bad_input, where, ": ", key, ": expected ", expected, ", found ",
       found ? quoted_text(found->dump()) : "nothing");
}

inline const nlohmann::json& object_of(const nlohmann::json* value, const std::string& where) {
  require_input(value && value->is_object(), where, ": expected an object, found ",
                value ? value->type_name() : "nothing");
  return *value;
}

inline std::string text_of(const nlohmann::json& object, const char* key, const std::string& where) {
  const nlohmann::json* value = find(object, key);
  if (!value || !value->is_string()) fail_member(where, key, "a string", value);
  return value->get<std::string>();
}

inline int bits_of(const nlohmann::json& object, const char* key, int low, int high, const std::string& where) {
  const nlohmann::json* value = find(object, key);
  if (!value || !value->is_number_integer() || *value < low || *value > high)
    fail_member(where, key, concat("a whole number from ", low, " to ", high).c_str(), value);
  return value->get<int>();
}

inline Symmetry symmetry_of(const nlohmann::json& object, const char* key, const std::string& where) {
  const nlohmann::json* value = find(object, key);
  if (value && !value->is_boolean()) fail_member(where, key, "true or false", value);
  return !value || value->get<bool>() ? Symmetry::symmetric : Symmetry::asymmetric;
}

}  // namespace cbq::quantization
