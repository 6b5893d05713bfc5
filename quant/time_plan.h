// Time a run will take: its floating-point operations over the speed of a matrix product measured on the device.
#pragma once

#include "quant/config.h"

namespace cbq {

// Floating-point operations of all windows and both streams; 2 for a multiply-add.
double reconstruction_flops(const RunConfig& config, const ModelConfig& model, std::int64_t calibration_samples);
// The same for the evaluation: three models through all windows, and the logits that are compared.
double evaluation_flops(const ModelConfig& model, std::int64_t windows, std::int64_t tokens_of_window);

struct TimePlan {
  double flops_per_second = 0;  // of one product of the model's largest layer, measured on the device
  double floor = 0;             // seconds of the reconstruction if all of it ran at that speed
  double expected = 0;          // seconds it will take
};
// Times one product, a few milliseconds on a GPU. All 0 for methods that optimise nothing.
TimePlan plan_time(Context& ctx, const RunConfig& config, const ModelConfig& model, std::int64_t calibration_samples);

}  // namespace cbq
