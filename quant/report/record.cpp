#include "quant/report/record.h"

#include <cmath>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Strict, where the parser that keeps the order of keys is not.
Json ordered_object(const std::string& text, const std::string& name) {
  require_input(parse_json_text(text, name).is_object(), name, ": expected an object");
  return Json::parse(text);
}

}  // namespace

RunRecord read_run_record(const fs::path& folder) {
  const fs::path report = folder / "report.json", config = folder / "run_config.json",
                 metrics = folder / "metrics.jsonl";
  const fs::path absolute = fs::absolute(folder).lexically_normal();
  RunRecord record;
  record.name = (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
  if (fs::exists(report)) {
    record.report = ordered_object(read_file(report), report.string());
  } else {
    require_input(fs::exists(config), folder.string(),
                  ": expected the output folder of a run, found neither report.json nor run_config.json in it");
    record.report["config"] = ordered_object(read_file(config), config.string());
  }
  if (!fs::exists(metrics)) return record;
  std::istringstream lines(read_file(metrics));
  int count = 0;
  for (std::string line; std::getline(lines, line);)
    record.windows.push_back(ordered_object(line, concat(metrics.string(), ", line ", ++count)));
  return record;
}

const Json& value_at(const Json& object, std::string_view path) {
  static const Json missing;
  const Json* at = &object;
  while (!path.empty()) {
    const std::string key(path.substr(0, path.find('.')));
    path.remove_prefix(std::min(path.size(), key.size() + 1));
    if (!at->is_object() || !at->contains(key)) return missing;
    at = &(*at)[key];
  }
  return *at;
}

double number_at(const Json& object, std::string_view path) {
  const Json& value = value_at(object, path);
  return value.is_number() ? value.get<double>() : std::nan("");
}

std::string text_at(const Json& object, std::string_view path) {
  const Json& value = value_at(object, path);
  return value.is_string() ? value.get<std::string>() : std::string();
}

const Json& list_at(const Json& object, std::string_view path) {
  static const Json empty = Json::array();
  const Json& value = value_at(object, path);
  return value.is_array() ? value : empty;
}

}  // namespace cbq
