#include <algorithm>

#include "core/error.h"
#include "quant/config.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

std::string shown(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string key_list(const Json& object, const Json& defaults, const std::string& prefix) {
  std::string text;
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      text += key_list(value, value_at(defaults, key), prefix + key + ".");
      continue;
    }
    const bool is_default = value_at(defaults, key) == value;
    text += element("div", element("dt", escaped(prefix + key)) + element("dd", escaped(shown(value))),
                    is_default ? "" : "class=\"set\"") +
            "\n";
  }
  return text;
}

std::string file_table(const Json& report) {
  std::vector<std::vector<std::string>> rows;
  for (const char* role : {"model", "dataset", "eval", "output"})
    for (const Json& file : list_at(report, std::string("files.") + role))
      rows.push_back({element("code", escaped(text_at(file, "path"))), role,
                      number_html(number_at(file, "bytes"), Unit::bytes),
                      element("code", escaped(text_at(file, "hash")))});
  return rows.empty() ? std::string()
                      : element("h3", "Files") + table_html({"File", "Read as", "#Bytes", "Hash"}, rows);
}

}  // namespace

std::string provenance_section(const RunRecord& run) {
  const Json &config = value_at(run.report, "config"), &versions = value_at(run.report, "versions");
  std::string text = element("h2", "Provenance");
  if (versions.is_object())
    text +=
        element("p", concat("cbq ", escaped(text_at(versions, "program")), ", commit ",
                            element("code", escaped(text_at(versions, "commit"))), ", built with ",
                            escaped(text_at(versions, "compiler")), ". Computed in ",
                            escaped(text_at(versions, "compute_dtype")), " by the ",
                            escaped(text_at(versions, "backend")), " backend on ", escaped(text_at(versions, "device")),
                            ". Seed ", escaped(shown(value_at(config, "seed"))), "."));
  if (config.is_object())
    text +=
        element("h3", "Config") +
        element("p",
                "Every key with its value; those that are not the default stand out. run_config.json holds the same.",
                "class=\"note\"") +
        element("dl", concat("\n", key_list(config, to_json(RunConfig()), "")), "class=\"keys\"");
  text += file_table(run.report);
  return text + element("p",
                        "Hashes are of 64 bits and tell whether a file has changed; of files above 1 GiB they cover "
                        "size, header and samples.",
                        "class=\"note\"");
}

}  // namespace cbq
