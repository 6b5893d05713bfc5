// What a run has left in its folder, and how the pages read it.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

struct RunRecord {
  std::string name;                             // of the folder
  nlohmann::ordered_json report;                // report.json; of an unfinished run only its config
  std::vector<nlohmann::ordered_json> windows;  // the lines of metrics.jsonl
};
// Reads report.json, or run_config.json of a run that is not finished, and metrics.jsonl. Error{bad_input}: no run has
// written the folder, or a file in it is damaged.
RunRecord read_run_record(const std::filesystem::path& folder);

// Values by path, such as "results.nearest.kl". What is missing or of another type is NaN, "", or an empty list: a page
// is made of what is there.
double number_at(const nlohmann::ordered_json& object, std::string_view path);
std::string text_at(const nlohmann::ordered_json& object, std::string_view path);
const nlohmann::ordered_json& list_at(const nlohmann::ordered_json& object, std::string_view path);
// Any value; null where it is missing.
const nlohmann::ordered_json& value_at(const nlohmann::ordered_json& object, std::string_view path);

}  // namespace cbq
