// Memory a run will take, from shapes alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/config.h"

namespace cbq {

struct MemoryItem {
  std::string what;
  std::int64_t bytes;
};

// Items in use at the peak of a window of the given config; their sum is the expected peak of the compute memory.
std::vector<MemoryItem> plan_memory(const RunConfig& config, const ModelConfig& model,
                                    std::int64_t calibration_samples);
std::int64_t total_bytes(const std::vector<MemoryItem>& items);

}  // namespace cbq
