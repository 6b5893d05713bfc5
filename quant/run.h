// `cbq run`: a config in, a quantised checkpoint, its perplexity and a report out.
#pragma once

#include <cstdio>
#include <stop_token>

#include "quant/config.h"

namespace cbq {

// Does the job and returns what is written to OUTPUT/report.json:
//   config, model {architecture, blocks, parameters}, results {full_precision, nearest, quantised, each with
//   perplexity, kl (nats a token), top1 (share)}, time_s by phase, peak_memory_bytes {compute, process}, memory_plan.
// `nearest` is round-to-nearest with the same bits from the mse start. Plan, progress and the table go to `log`. Goes
// on where an interrupted run of the same config stopped; a finished one is only reported. Throws Error, and
// Interrupted (of quant/cross_block.h) when `stop` is requested: the state is then saved.
nlohmann::ordered_json run(Context& ctx, const RunConfig& config, std::FILE* log, std::stop_token stop);

// The table of perplexity, KL and top-1 of a report.
void print_results(const nlohmann::ordered_json& report, std::FILE* out);

}  // namespace cbq
