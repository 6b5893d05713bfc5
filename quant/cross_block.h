// Cross-block reconstruction: learns what is learned of the blocks in one window.
#pragma once

#include <functional>
#include <span>
#include <stop_token>
#include <vector>

#include "quant/config.h"
#include "quant/streams.h"

namespace cbq {

// Blocks begin .. end-1 are learned together; blocks begin .. next-1 are done after it.
struct Window {
  std::int64_t begin, end, next;
};
// fixed: windows of `window` blocks, each sharing `overlap` with the one before; the last ones are shorter if they
// must. grow: starts with the first block alone, grows to `window`, slides by window - overlap, and shrinks to the last
// block.
std::vector<Window> window_schedule(std::int64_t layers, std::int64_t window, std::int64_t overlap,
                                    WindowSchedule schedule);

// The streams a window works on. The samples from `trained` on are held out.
struct WindowData {
  const Stream& input;              // x_q: what the quantised blocks before the window give
  const Stream& target;             // y_f: what the full-precision model gives after the window
  const Stream& homologous_target;  // y_h: the full-precision window on x_q; empty without that branch
  std::int64_t trained;
};

struct WindowProgress {
  std::int64_t step, steps;
  double loss;  // mean over the last steps, relative to that of the hardened window at its start
};
struct WindowResult {
  std::int64_t steps = 0;
  double start_distance = 0;   // of the hardened window before the first step, mean over the held-out samples
  double end_distance = 0;     // after the last; held-out samples, or the first trained one without any
  std::vector<double> losses;  // relative, one mean per epoch
};

// Thrown when the loss stops being finite; the caller goes back to the last good state.
struct NonFiniteLoss {
  std::int64_t step;
};
// Thrown when `stop` was requested.
struct Interrupted {};

// Minimises distance(target, output) + distance(homologous target, output) + lambda L_com over config.epochs passes, in
// an order shuffled by (seed, window.begin, window.end). `lr_factor` scales all rates. Leaves gradients and tapes
// empty.
WindowResult optimise_window(Context& ctx, const ModelConfig& model, const RunConfig& config, const Window& window,
                             std::span<QuantBlock* const> blocks, const Sequence& sequence, const WindowData& data,
                             double lr_factor, std::stop_token stop,
                             const std::function<void(const WindowProgress&)>& progress);

// The blocks' output for one sample, hardened, nothing recorded.
Tensor hard_forward(Context& ctx, const ModelConfig& model, std::span<QuantBlock* const> blocks,
                    const Sequence& sequence, const Tensor& x);

}  // namespace cbq
