#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = char(text[0] - 'a' + 'A');
  return text;
}

std::string time_chart(const Json& report) {
  BarChart chart{"Time by phase", {"time", Scale::size, Unit::seconds}, "taken", "floor", {}};
  const Json& phases = value_at(report, "time_s");
  if (!phases.is_object()) return {};
  for (const auto& [phase, seconds] : phases.items())
    chart.bars.push_back({phase, number_at(phases, phase), number_at(report, "time_floor_s." + phase)});
  return draw(chart);
}

// Peaks of the windows over the time that windows took, and the plan.
std::string memory_chart(const RunRecord& run) {
  Series compute{"compute memory, peak of each window", 0, {}, Mark::steps};
  double seconds = 0;
  for (const Json& window : run.windows) {
    const double took = number_at(window, "seconds"), peak = number_at(window, "peak_bytes");
    if (!std::isfinite(took) || !std::isfinite(peak)) continue;
    if (compute.points.empty()) compute.points.push_back({0, peak});
    compute.points.push_back({seconds += took, peak});
  }
  if (compute.points.empty()) return {};
  Series plan{"plan", kMuted, {}, Mark::level};
  const double planned = number_at(run.report, "memory_plan.device_bytes");
  if (planned > 0) plan.points = {{0, planned}, {seconds, planned}};
  return draw(LineChart{"Memory over time, against the plan",
                        {"time in windows", Scale::linear, Unit::seconds},
                        {"compute memory", Scale::size, Unit::bytes},
                        {compute, plan}});
}

std::string phase_table(const Json& report) {
  const double expected = number_at(report, "memory_plan.expected_s");  // 0 where it is not known
  const Json& phases = value_at(report, "time_s");
  if (!phases.is_object()) return {};
  std::vector<std::vector<std::string>> rows;
  double total = 0;
  for (const auto& [phase, seconds] : phases.items()) {
    const double took = number_at(phases, phase);
    if (std::isfinite(took)) total += took;
    rows.push_back({escaped(capitalised(phase)), number_html(took, Unit::seconds),
                    number_html(number_at(report, "time_floor_s." + phase), Unit::seconds),
                    number_html(phase == "reconstruct" && expected > 0 ? expected : std::nan(""), Unit::seconds),
                    number_html(number_at(report, "peak_memory_bytes." + phase), Unit::bytes)});
  }
  rows.push_back({"All", number_html(total, Unit::seconds), "", "", ""});
  return element("h3", "By phase") + table_html({"", "#Time", "#Floor", "#Expected", "#Peak of compute memory"}, rows);
}

std::string plan_table(const Json& report) {
  std::vector<std::vector<std::string>> rows;
  for (const Json& item : list_at(report, "memory_plan.device"))
    if (number_at(item, "bytes") > 0)
      rows.push_back({escaped(capitalised(text_at(item, "what"))), number_html(number_at(item, "bytes"), Unit::bytes)});
  if (rows.empty()) return {};
  rows.push_back({"Sum, the plan", number_html(number_at(report, "memory_plan.device_bytes"), Unit::bytes)});
  rows.push_back({"Measured in windows", number_html(number_at(report, "peak_memory_bytes.reconstruct"), Unit::bytes)});
  const auto add = [&](const char* path, const char* name) {
    if (const double bytes = number_at(report, path); bytes > 0)
      rows.push_back({name, number_html(bytes, Unit::bytes)});
  };
  add("memory_plan.host_bytes", "Streams in host memory");
  add("memory_plan.disk_bytes", "Streams on disk");
  add("memory_plan.staged_bytes", "Weights read ahead, in host memory");
  add("peak_memory_bytes.process", "Resident in the process at most");
  return element("h3", "Memory of the reconstruction") + table_html({"", "#Bytes"}, rows);
}

}  // namespace

std::string cost_section(const RunRecord& run) {
  const std::string figures = time_chart(run.report) + memory_chart(run);
  if (figures.empty()) return {};
  return element("h2", "Cost") +
         element("p",
                 "The floor is what a phase would take if all its arithmetic ran at the speed of one large matrix "
                 "product on this "
                 "device; the expectation adds what steps lose beside products. Other phases read and write files.",
                 "class=\"note\"") +
         chart_grid(figures) + phase_table(run.report) + plan_table(run.report);
}

}  // namespace cbq
