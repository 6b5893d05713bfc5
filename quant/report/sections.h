// The parts of the page of one run. Each is empty where the run has not saved what it shows.
#pragma once

#include <string>

#include "quant/report/chart.h"
#include "quant/report/record.h"

namespace cbq {

// "W2A16", "W4A8 g128 sym".
std::string scheme_text(const nlohmann::ordered_json& config);
// "cross-block reconstruction", "GPTQ", "round to nearest".
std::string method_text(const nlohmann::ordered_json& config);
// The model's folder: of .../tiny-llama/model the last name that says something.
std::string model_name(const nlohmann::ordered_json& config);
// Points (i, number of `key` in item i) of a list of objects.
std::vector<Point> points_of(const nlohmann::ordered_json& list, std::string_view key);
// "<div class=charts>" around figures; empty without any.
std::string chart_grid(const std::string& figures);

std::string result_section(const RunRecord& run);      // table, texts
std::string loss_section(const RunRecord& run);        // windows, blocks
std::string layer_section(const RunRecord& run);       // errors, moved weights, clips
std::string outlier_section(const RunRecord& run);     // what preprocessing found
std::string cost_section(const RunRecord& run);        // time, memory
std::string provenance_section(const RunRecord& run);  // config, versions, files

}  // namespace cbq
