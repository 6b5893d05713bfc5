// `cbq run`: a config in, a quantised checkpoint, its perplexity and a report out.
#pragma once

#include <cstdio>
#include <stop_token>

#include "quant/config.h"
#include "quant/memory_plan.h"
#include "quant/time_plan.h"

namespace cbq {

// What a run will take.
struct RunPlan {
  MemoryPlan memory;
  TimePlan time;  // of all windows; 0 where that is not known
};
// ctx is the device to run on; without one the plan is for a device with memory enough, and knows no time.
RunPlan plan_run(Context* ctx, const RunConfig& config);
void print_plan(const RunPlan& plan, const RunConfig& config, const ModelConfig& model, std::FILE* out);
// device [{what, bytes}], device_bytes, host_bytes, disk_bytes, staged_bytes, expected_s, floor_s.
nlohmann::ordered_json plan_json(const RunPlan& plan);

// Does the job and returns what is written to OUTPUT/report.json:
//   config, model {architecture, blocks, hidden, parameters}; results and after_block of evaluate_run; texts of
//   continue_prompts; size, versions and files of add_provenance; time_s by phase, time_floor_s where one is known;
//   peak_memory_bytes of the compute memory by phase, and of the process on the host; memory_plan as plan_json gives
//   it.
// OUTPUT/report.html shows it together with metrics.jsonl. Plan, progress and the table go to `log`. Goes
// on where an interrupted run of the same config stopped; a finished one is only reported. Throws Error, and
// Interrupted (of quant/cross_block.h) when `stop` is requested: the state is then saved.
nlohmann::ordered_json run(Context& ctx, const RunConfig& config, std::FILE* log, std::stop_token stop);

// The table of perplexity, KL and top-1 of a report.
void print_results(const nlohmann::ordered_json& report, std::FILE* out);

}  // namespace cbq
