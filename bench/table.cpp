#include "bench/table.h"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

namespace cbq::bench {
namespace {

struct Column {
  const char *counter, *title, *format;
  double unit;
};
constexpr Column kColumns[] = {{"GB/s", "GB/s", "%10.4g", 1},
                               {"of_copy", "of copy", "%8.0f %%", 0.01},
                               {"TFLOP/s", "TFLOP/s", "%10.3g", 1},
                               {"of_gemm", "of GEMM", "%8.0f %%", 0.01}};

constexpr int kNameWidth = 52;

std::string time_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, seconds < 1e-2 ? "%9.1f us" : "%9.1f ms", seconds * (seconds < 1e-2 ? 1e6 : 1e3));
  return text;
}

class Table final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context& context) override {
    PrintBasicContext(&GetErrorStream(), context);
    std::printf("%-*s %12s", kNameWidth, "benchmark", "time");
    for (const Column& column : kColumns) std::printf(" %10s", column.title);
    std::printf("\n");
    return true;
  }

  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) {
      const std::string name =
          run.run_name.function_name + (run.aggregate_name.empty() ? "" : ", " + run.aggregate_name);
      if (run.error_occurred) {
        failed_ = true;
        std::printf("%-*s %s\n", kNameWidth, name.c_str(), run.error_message.c_str());
        continue;
      }
      const double seconds = run.GetAdjustedRealTime() / benchmark::GetTimeUnitMultiplier(run.time_unit);
      std::printf("%-*s %12s", kNameWidth, name.c_str(), time_text(seconds).c_str());
      for (const Column& column : kColumns) {
        const auto counter = run.counters.find(column.counter);
        std::printf(" ");
        if (counter == run.counters.end())
          std::printf("%10s", "");
        else
          std::printf(column.format, counter->second / column.unit);
      }
      std::printf("\n");
    }
    std::fflush(stdout);
  }

  bool failed() const { return failed_; }

 private:
  bool failed_ = false;
};

}  // namespace

int run_benchmarks(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  Table table;
  benchmark::RunSpecifiedBenchmarks(&table);
  benchmark::Shutdown();
  return table.failed() ? 1 : 0;
}

}  // namespace cbq::bench
