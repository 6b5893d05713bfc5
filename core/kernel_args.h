// The choices and small structs that kernels take.
#pragma once

#include <limits>

#include "core/view.h"

namespace cbq {

enum class Trans { no, yes };
enum class Activation { relu, silu, gelu, gelu_tanh };
enum class Rotation { forward, inverse };

// Integer grid of a quantiser. Codes are unsigned, q in [0, 2^bits - 1]; a value is s * (q - z).
// symmetric: z = 2^(bits-1), range (-a, a) with s = a / ((2^bits - 1) / 2), as compressed-tensors defines it.
// asymmetric: range (lo, hi) with lo <= 0 <= hi, s = (hi - lo) / (2^bits - 1), z = round(-lo / s).
enum class Symmetry { asymmetric, symmetric };

// A quantiser of activations: each row on the grid of its range times `factor`.
struct ActivationQuantiser {
  View factor;  // (1), > 0
  int bits;
  Symmetry symmetry;
};

// A matrix of integers times a step a row: x_rc = step_r integer_rc. Quantisers have q - z for integers.
struct IntegerRows {
  View integers;  // (R,C) f8, up to kLargestInteger in magnitude
  View step;      // (R)
};
// Largest integer that f8 holds with all below it.
constexpr int kLargestInteger = 16;
// Whether q - z is one of them for every code.
constexpr bool integers_fit(int bits, Symmetry symmetry) {
  return symmetry == Symmetry::symmetric ? 1 << (bits - 1) <= kLargestInteger : (1 << bits) - 1 <= kLargestInteger;
}

// Grid of a weight (out, in): one step size and zero point per row and group of G = in / scale.cols() columns.
struct WeightGrid {
  View scale;  // (out, in/G), > 0
  View zero;   // (out, in/G), integers kept as floats
  int bits;
};

// How w / s0 becomes the integer u (docs/method.md, "Rounding"). `offset` stands for the learned matrix below.
//   straight_through: u = round(w/s0 + offset); gradients pass through round unchanged
//   sigmoid:          u = floor(w/s0) + h(V0 + offset), h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1), and
//                     V0 = h^-1(frac(w/s0)) recomputed from w and s0 (AdaRound 2004.10568, eq. 23; LoRA-Rounding)
//   sigmoid_hard:     the same with h rounded to 0 or 1: what is written to disk
enum class Rounder { straight_through, sigmoid, sigmoid_hard };

// The learned matrix: nothing (all views empty), dense (out, in), or a product a1 (out, K) x a2 (K, in).
struct RoundingOffset {
  View dense, a1, a2;
};

// A weight together with all that decides its quantised value. w is (out, in).
struct WeightQuantiser {
  View w;
  WeightGrid grid;
  Rounder rounder;
  RoundingOffset offset;
  // s0, shaped as grid.scale: u is decided on it, and s only scales what was decided. Empty: s0 = s.
  View start_scale = {};
  // (2): lambda and beta > 1 of a sigmoid rounder, or empty. The loss that is minimised then has a term lambda L_com,
  // L_com = mean(1 - |2h - 1|^beta), which drives h to 0 or 1 (AdaRound 2004.10568, eq. 24). Nothing reads its value:
  // it is in the gradient of the offset alone. Two numbers on the device, so that a recorded step reads new ones.
  View regulariser = {};
};

// Where the gradients of a WeightQuantiser go; empty Views are skipped. Shapes as in WeightQuantiser.
struct WeightQuantiserGrads {
  View w, scale, zero, dense, a1, a2;
};

constexpr double kUnbounded = std::numeric_limits<double>::infinity();

struct AdamStep {
  double lr, beta1, beta2, epsilon, weight_decay;
  std::int64_t step;  // 1 for the first
};

// One tensor of an optimiser's step, all views of one count. The new value is kept in [low, high]; NaN stays NaN.
struct AdamTensor {
  View value, m, v, grad;
  AdamStep step;
  double low = -kUnbounded, high = kUnbounded;
};
struct SignTensor {
  View value, grad;
  double lr;
  double low = -kUnbounded, high = kUnbounded;
};

}  // namespace cbq
