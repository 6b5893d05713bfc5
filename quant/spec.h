// What is to become of one linear layer.
#pragma once

#include <cstdint>
#include <string>

#include "models/block.h"

namespace cbq {

// Where the activation streams are kept: on the device; in host memory that it copies fast; in a file that the system
// pages. automatic: on the device where they fit, else on the host.
enum class Offload { automatic, device, host, disk };

struct WeightSpec {
  int bits = 4;                  // 2, 3, 4, 5, 6, 8; 16 leaves the layer as it is
  std::int64_t group_size = -1;  // input columns that share a step size; -1: the whole row
  Symmetry symmetry = Symmetry::asymmetric;

  bool quantised() const { return bits < 16; }
  // (out, in/G) of the grid of a weight.
  Shape grid_shape(const Shape& weight) const { return {weight[0], group_size < 0 ? 1 : weight[1] / group_size}; }
};

struct LinearSpec {
  WeightSpec weight;
  ActivationSpec activation;  // equal for all layers of one site
};

// How the start grid is found: the min-max range, or the clip ratio in [kMinClipRatio, 1] (kClipSteps steps) with the
// least squared error per group.
enum class Start { min_max, mse };
constexpr double kMinClipRatio = 0.3;
constexpr int kClipSteps = 40;

// What a zero offset rounds, to nearest: the weight itself, or the weight as GPTQ rounds it, with the errors of the
// columns before it made up for.
enum class RoundingStart { nearest, gptq };

// docs/method.md, "Rounding".
enum class RoundingKind { nearest, lora, lora_ste, dense, sign, weights };

}  // namespace cbq
