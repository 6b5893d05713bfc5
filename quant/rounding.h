// The rounding parametrisations behind one interface: what is learned of one weight, and how it hardens to integers.
#pragma once

#include <map>
#include <optional>

#include "autograd/ops.h"
#include "core/rng.h"
#include "quant/spec.h"

namespace cbq {

// soft: as trained, sigmoid rounders between integers. hard: on integers.
enum class Hardness { soft, hard };

// Integers and grid of a weight, final. w_hat = s (q - z) rounded to `stored`, the dtype of the checkpoint: the numbers
// every reader of the file computes. dequantise gives them in `compute`.
struct HardWeight {
  WeightSpec spec;
  Tensor codes;        // (out, in) u8
  Tensor scale, zero;  // (out, in/G) in f32 (f64 beside f64 values); s has values of `stored` and of f16

  WeightGrid grid() const { return {scale, zero, spec.bits}; }
};
Tensor dequantise(Context& ctx, const HardWeight& hard, DType stored, DType compute);

// Whether step sizes move from their start.
enum class StepSizes { fixed, learned };

struct RoundingOptions {
  RoundingKind kind = RoundingKind::nearest;
  Start start = Start::mse;
  RoundingStart rounding_start = RoundingStart::nearest;
  std::int64_t rank = 5;                            // of lora and lora_ste
  StepSizes weight_steps = StepSizes::learned;      // of `sign`: its two clips
  StepSizes activation_steps = StepSizes::learned;  // factors on the dynamic range
};

class WeightRounding {
 public:
  // w (out, in) full precision. A1 starts Gaussian with standard deviation 1/sqrt(K), drawn from `rng`; A2 and every
  // other offset start at zero, so that all kinds start at round-to-nearest once hardened.
  WeightRounding(Context& ctx, Tensor w, const WeightSpec& spec, const RoundingOptions& options, Rng& rng);

  RoundingKind kind() const { return options_.kind; }
  // How the kind rounds once hardened.
  Rounder hard_rounder() const;
  const WeightSpec& spec() const { return spec_; }

  // The op inputs at this step; leaves of `tape`, or constants when it is null.
  ops::WeightQuantiserVars vars(Context& ctx, Tape* tape, Hardness hardness) const;
  // Whether quantise_weight gives integers of these (ops::Form): in the dtype of w, one step a row, and rounded.
  bool has_integers(Hardness hardness) const;
  // The integers as the current parameters give them, s rounded to `stored`.
  HardWeight harden(Context& ctx, DType stored) const;

  // Rounds `w`, which GPTQ made for the start grid with its steps in `stored`. The integers are decided on those steps
  // from now on, and what is learned of a step scales them: w holds the errors of the columns before it, which rounding
  // on another grid would lose. Before anything is learned.
  void start_from_gptq(Context& ctx, Tensor w, DType stored);

  // Learned tensors by role; empty vectors for kinds without.
  std::vector<Parameter*> rounding_parameters();  // a1, a2; dense; sign's V; w'
  std::vector<Parameter*> scale_parameters();     // log step sizes, or the two clips of `sign`

  // All that a resumed run needs besides the constructor's arguments, by name.
  std::map<std::string, Tensor> state();
  void restore(const std::map<std::string, Tensor>& state);

 private:
  // Every parameter the kind has, with the name it is saved under.
  std::vector<Parameter*> parameters();
  ops::Grid grid(Context& ctx, Tape* tape) const;
  void learn_weight(Context& ctx);  // w' starts as w

  WeightSpec spec_;
  RoundingOptions options_;
  Tensor w_;               // (out, in), what is rounded; all that is learned is in f32 beside it
  Tensor scale0_, zero0_;  // start grid
  Tensor decided_on_;      // steps of start_from_gptq
  Parameter log_scale_;    // s = scale0 exp(log_scale): learned relative to its start. All kinds but `sign`
  Parameter low_, high_;   // clips of `sign`
  Parameter a1_, a2_;      // lora, lora_ste
  Parameter dense_;        // offset of dense, V of sign
  Parameter weight_;       // w' of weights
};

// Whether the kind has a soft phase that must be annealed (lora, dense).
bool is_annealed(RoundingKind kind);

}  // namespace cbq
