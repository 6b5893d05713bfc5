#include <nlohmann/json.hpp>

#include "core/files.h"
#include "quant/report/page.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace cbq {

void report_command(const ReportOptions& options) {
  require_input(options.folders.size() == 1 || options.out,
                "report: several runs go side by side on one page; say where to write it with --out FILE");
  std::vector<RunRecord> runs;
  for (const auto& folder : options.folders) runs.push_back(read_run_record(folder));
  const std::filesystem::path file = options.out.value_or(options.folders[0] / "report.html");
  write_file(file, runs.size() == 1 ? run_page(runs[0]) : comparison_page(runs));
  if (options.format == ResultFormat::json)
    print_json({{"file", file.string()}, {"runs", runs.size()}});
  else
    print(file.string() + "\n");
}

}  // namespace cbq
