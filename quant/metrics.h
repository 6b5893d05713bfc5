// What metrics.jsonl keeps of windows, and of single blocks: what preprocessing found as they came, what became of
// their layers.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "quant/cross_block.h"
#include "quant/preprocess.h"

namespace cbq {

// Channels of a site next to each other share a bin; of each the largest magnitude is kept.
constexpr std::int64_t kChannelBins = 64;

// Of a block that enters with preprocessing:
//   layer, linears [{name, weights, outliers, largest, kept}], the largest magnitude and the largest one kept;
//   sites [{name, channels, scaled, largest_before, largest_after, before, after}], magnitudes of activations, the last
//   two by bin; empty without calibration samples.
nlohmann::json entered_metrics(const ModelConfig& config, std::int64_t layer, const CfpPlan& plan,
                               const BlockRanges& ranges);

// Of a block that is done: layer, moved_share, linears [{name, bits, weights, error, nearest_error, moved_share,
// clip_lowest, clip_median, clip_highest}] as LayerStatistics has them; activation_factors by site where activations
// are quantised. `weights` are the block's own, after preprocessing and before any start from GPTQ.
nlohmann::json finished_metrics(Context& ctx, const ModelConfig& config, std::int64_t layer,
                                const BlockWeights& weights, const QuantBlock& student, const HardBlock& hard);

// Of a window: window, begin, end, steps, start_distance and end_distance (null where nothing is learned), losses by
// epoch.
nlohmann::json window_metrics(std::size_t index, const Window& window, const WindowResult& result);

// Removes the lines of windows that the store does not count as done: they came from a run that was killed before it
// saved them.
void keep_metrics_of(const std::filesystem::path& file, std::int64_t windows_done);

// The most host memory that this process has held so far.
std::int64_t process_peak_bytes();

}  // namespace cbq
