// The keys of the run configuration: one entry each, from which reading, writing and the help are made.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "quant/config.h"
#include "quant/config_value.h"

namespace cbq {

struct ConfigKey {
  std::string name;     // keys of an object with its prefix: "eval.seqlen"
  std::string allowed;  // "an integer from 1 to 4096"; what errors say was expected
  std::string meaning;  // for the help, one line
  std::function<void(RunConfig&, const ConfigValue&)> read;  // Error{bad_input} when the value is not allowed
  std::function<nlohmann::ordered_json(const RunConfig&)> write;
};

// In the order in which they are written.
const std::vector<ConfigKey>& config_keys();

// Other names for a key. They are read, never written.
struct KeyAlias {
  std::string_view alias, key;
};
const std::vector<KeyAlias>& key_aliases();

// read_run_config on text already in memory. `name` stands for the file in errors, `folder` for its folder.
RunConfig parse_run_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                           const std::vector<std::string>& settings);

// The table of keys for `cbq run --help`: name, default, what is allowed, meaning.
std::string config_help();

}  // namespace cbq
