// Memory a run will take: counted by the run's own code on a device that computes nothing (core/dry_run.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model.h"
#include "quant/config.h"

namespace cbq {

struct MemoryItem {
  std::string what;
  std::int64_t bytes;
};

struct MemoryPlan {
  Offload offload;                 // the config's, or the one chosen for it
  std::vector<MemoryItem> device;  // in use at the peak of the heaviest window
  std::int64_t host_bytes;         // of streams in host memory
  std::int64_t disk_bytes;         // of streams in files
  std::int64_t staged_bytes;       // of page-locked host memory: the blocks that are read ahead; 0 on the CPU
  std::int64_t device_bytes() const;
};

// What reconstruction will take; device_bytes() is its expected peak. With offload automatic streams go to the device
// if all fits in `available` bytes, else to the host, or from the CPU, whose memory is the host's, to disk. Reads the
// model's headers and none of its weights.
MemoryPlan plan_memory(const RunConfig& config, const std::vector<BlockSpec>& specs, std::int64_t calibration_samples,
                       std::int64_t available);
// The setting that moves streams from `now` to where there is more room, "\"offload\": \"host\""; empty where none
// does.
std::string roomier_setting(Device device, Offload now);
// Settings that need less of the device than those of `config`: "a smaller rank, or a shorter seqlen".
std::string smaller_settings(const RunConfig& config);
// Error{bad_input}: the plan needs more than `available` bytes of the device; says which settings need less.
void require_fits(const MemoryPlan& plan, const RunConfig& config, std::int64_t available);

}  // namespace cbq
