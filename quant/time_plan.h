// Time a run will take: its floating-point operations over the speed of a matrix product measured on the device.
#pragma once

#include "quant/config.h"

namespace cbq {

// Floating-point operations of all windows and both streams; 2 for a multiply-add.
double reconstruction_flops(const RunConfig& config, const ModelConfig& model, std::int64_t calibration_samples);
// Seconds the windows and streams will take. Times one product of the model's largest layer, a few milliseconds on a
// GPU. 0 for methods that optimise nothing.
double expected_seconds(Context& ctx, const RunConfig& config, const ModelConfig& model,
                        std::int64_t calibration_samples);

}  // namespace cbq
