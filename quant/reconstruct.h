// Walks the windows of a model: both streams, preprocessing, optimisation, hardening, and the state between windows.
#pragma once

#include <cstdio>
#include <map>
#include <stop_token>

#include "quant/cross_block.h"
#include "quant/preprocess.h"
#include "quant/store.h"
#include "quant/streams.h"

namespace cbq {

// The windows a config means: those of cross-block reconstruction, or one block at a time for rtn and gptq.
std::vector<Window> plan_windows(const RunConfig& config, std::int64_t layers);
// Where a block's rounding starts and what it learns of it: nothing for rtn and gptq.
RoundingOptions rounding_options(const RunConfig& config);
// Whether calibration samples pass through the model at all; round-to-nearest without activation preprocessing needs
// none.
bool needs_calibration(const RunConfig& config);

class Reconstruction {
 public:
  // `samples` are the calibration windows, the held-out ones last. `log` shows progress.
  Reconstruction(Context& ctx, const Model& model, const RunConfig& config, std::vector<BlockSpec> specs,
                 Windows samples, RunStore& store, std::FILE* log);

  // Runs all windows that the store has not completed. Throws Interrupted when `stop` is requested: the store then
  // holds the last completed window. Appends a line per window to METRICS:
  //   window_metrics, entered and finished blocks (quant/metrics.h), peak_bytes of the compute memory, process_bytes
  //   resident at most so far, seconds.
  // The peak that the allocator counts is reset at each window.
  void run(const std::filesystem::path& metrics, std::stop_token stop);

 private:
  // A block in work: its preprocessing, its student, and its full-precision weights where the homologous branch needs
  // them.
  struct Active {
    CfpPlan plan;
    std::unique_ptr<QuantBlock> student;
    std::unique_ptr<DenseBlock> teacher;
  };

  // First block that enters with a window.
  std::int64_t first_new(std::size_t index) const { return index > 0 ? windows_[index - 1].end : 0; }
  void restart_streams(std::int64_t begin, std::int64_t front);
  void enter(std::int64_t layer);
  Active make_active(std::int64_t layer, BlockWeights weights, CfpPlan plan);
  void restore_active(const Window& before);
  std::map<std::string, Tensor> active_state();
  WindowResult solve(std::size_t index, double lr_factor, std::stop_token stop);
  WindowResult solve_with_retry(std::size_t index, std::stop_token stop);
  BlockWeights own_weights(std::int64_t layer);
  nlohmann::json leave(std::int64_t layer);

  Context& ctx_;
  const Model& model_;
  const RunConfig& config_;
  std::vector<BlockSpec> specs_;
  Windows samples_;
  RunStore& store_;
  std::FILE* log_;
  std::vector<Window> windows_;
  Sequence sequence_;
  Stream quantised_, full_;  // x_q before the window, y_f behind it
  std::int64_t front_ = 0;   // blocks that full_ has passed
  std::map<std::int64_t, Active> active_;
  nlohmann::json entered_ = nlohmann::json::array();  // of the window in work
};

}  // namespace cbq
