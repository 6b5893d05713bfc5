// Where a result comes from: the program, the device, every file read and written.
#pragma once

#include <nlohmann/json.hpp>

#include "quant/store.h"

namespace cbq {

// Adds to a report
//   size {bits_per_weight of the linear layers, stored_bits of one in the source, source_bytes and bytes of all weight
//   files, exports [{format, bytes}], the first of which `bytes` are}, versions {program, commit, compiler, backend,
//   device, compute_dtype}, files {model, dataset, eval, output:
//   [{path, bytes, hash}]}.
// `read` is what the run began with. The export must be complete.
void add_provenance(nlohmann::ordered_json& report, const Context& ctx, const RunConfig& config,
                    const ModelConfig& model, const std::vector<BlockSpec>& specs, const Fingerprint& read);

}  // namespace cbq
