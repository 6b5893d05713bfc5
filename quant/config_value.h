// A value of the configuration together with where it was given, so that every error can say so.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

// A configuration file, or one `key=value` of the command line.
struct ConfigSource {
  std::string name;              // path of the file, or the setting as it was typed
  std::string text;              // JSON that the parser has accepted; empty for a setting, which has no lines
  std::filesystem::path folder;  // what relative paths start from

  // "FILE:LINE:COLUMN" of the key or list entry, counted from 1 and columns in bytes, or just the setting.
  std::string place(const nlohmann::json::json_pointer& pointer) const;
};

class ConfigValue {
 public:
  ConfigValue(std::shared_ptr<const ConfigSource> source, nlohmann::json value,
              nlohmann::json::json_pointer pointer = nlohmann::json::json_pointer())
      : source_(std::move(source)), value_(std::move(value)), pointer_(std::move(pointer)) {}

  const nlohmann::json& json() const { return value_; }
  const std::filesystem::path& folder() const { return source_->folder; }
  std::string place() const { return source_->place(pointer_); }
  // As messages show it: `eval.seqlen`, `overrides[2].wbits`.
  std::string name() const;

  ConfigValue member(const std::string& key) const { return {source_, value_.at(key), pointer_ / key}; }
  ConfigValue entry(std::size_t i) const { return {source_, value_.at(i), pointer_ / i}; }
  // Another value at the same place: what a shorthand stands for.
  ConfigValue with(nlohmann::json value) const { return {source_, std::move(value), pointer_}; }

  // Throws Error{bad_input} "PLACE: NAME: expected EXPECTED, found VALUE".
  [[noreturn]] void reject(std::string_view expected) const;

 private:
  std::shared_ptr<const ConfigSource> source_;
  nlohmann::json value_;
  nlohmann::json::json_pointer pointer_;
};

// What one `key=value` of the command line gives: an object with that key, `a.b=value` with an object under `a`. The
// value is JSON, or else a string as it stands. Error{bad_input}: no key, or text that is no UTF-8.
ConfigValue read_setting(const std::string& setting);

// The candidate with the smallest Levenshtein distance from `name`, the first of several.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace cbq
