// One training step of a window: forward, backward, update.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "autograd/optim.h"
#include "quant/cross_block.h"
#include "quant/objective.h"
#include "quant/quant_block.h"

namespace cbq {

// A step like the one before it is recorded, where the device can (Context::record), and those that follow replay it:
// all but the samples, the regulariser's numbers and the optimiser's rates is the same then. Recorded or not, a step
// gives the same bits.
class WindowStep {
 public:
  // The loss is `unit` times the distances. What is passed by reference or pointer must outlive this.
  WindowStep(Context& ctx, const ModelConfig& model, const RunConfig& config, std::span<QuantBlock* const> blocks,
             const Sequence& sequence, const WindowData& data, double unit, double lr_factor, std::int64_t steps);

  // Learns from these samples. Gives the loss (1) without the regulariser, which the next step overwrites.
  Tensor run(std::span<const std::int64_t> samples, const Annealing& annealing);
  // Whether the last step was a replay.
  bool was_replayed() const { return replay_ != nullptr; }

 private:
  struct Kind {
    std::int64_t batch;
    Hardness hardness;
    enum class Regulariser { absent, present } regulariser;
    friend bool operator==(const Kind&, const Kind&) = default;
  };
  // What changes between steps of a kind.
  void load(std::span<const std::int64_t> samples, const Annealing& annealing);
  void forget_recording();
  // Leaves the loss and the gradients of the parameters.
  void compute();
  void record();

  Context& ctx_;
  const ModelConfig& model_;
  const RunConfig& config_;
  std::span<QuantBlock* const> blocks_;
  Sequence sequence_;
  const WindowData& data_;
  const double unit_;
  std::vector<Parameter*> parameters_;
  Optimizer optimizer_;

  std::optional<Kind> kind_;            // of the last step
  Tensor input_, target_, homologous_;  // (batch * T, C), of this step
  Tensor regulariser_;                  // (2), of this step
  Tensor loss_;
  bool was_tried_ = false;  // to record a step of this kind
  std::unique_ptr<Replay> replay_;
  std::vector<Tensor> gradients_;  // of parameters_, where the replay leaves them
};

// The blocks one after the other, with the hardness and tape they were told to use.
Var window_forward(Context& ctx, const ModelConfig& model, std::span<QuantBlock* const> blocks,
                   const Sequence& sequence, Var x);

}  // namespace cbq
