// The configuration of `cbq train`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "models/trainer.h"

namespace cbq {

// Reads FILE and applies `settings` ("key=value"). Paths are relative to the file's folder; those in settings to the
// working directory. Errors (bad_input), each with file, line and column or the setting: broken JSON, unknown key (with
// the nearest name), wrong type, value out of range (with the range), a missing key.
TrainConfig read_train_config(const std::filesystem::path& file, const std::vector<std::string>& settings);
// The same on text already in memory. `name` stands for the file in errors, `folder` for its folder.
TrainConfig parse_train_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                               const std::vector<std::string>& settings);

// The table of keys for `cbq train --help`: name, meaning, what is allowed.
std::string train_config_help();

}  // namespace cbq
