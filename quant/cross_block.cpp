#include "quant/cross_block.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "core/kernels.h"
#include "quant/window_step.h"

namespace cbq {
namespace {

// The losses of the steps. They collect on the device, and an interval of them is read at once and looked at when the
// next one is queued: where the host has to wait, the device still has that one to work on.
class LossLog {
 public:
  LossLog(Context& ctx, std::int64_t steps, std::int64_t steps_per_epoch,
          const std::function<void(const WindowProgress&)>& progress)
      : ctx_(ctx),
        steps_(steps),
        per_epoch_(steps_per_epoch),
        progress_(progress),
        collected_(ctx, {kInterval}, DType::f32) {}

  // The loss (1) of the next step. Throws NonFiniteLoss for a step at most two intervals back.
  void add(const Tensor& loss) {
    ctx_.kernels->convert(ctx_, collected_.slice(0, count_, count_ + 1), loss);
    ++count_, ++step_;
    if (count_ < kInterval && step_ % per_epoch_ != 0) return;
    Interval complete{step_, to_host_later(ctx_, collected_.slice(0, 0, std::exchange(count_, 0)))};
    look();
    unseen_ = std::move(complete);
  }

  // One mean per epoch. Waits for the last steps; throws NonFiniteLoss too.
  std::vector<double> means() {
    look();
    return means_;
  }

 private:
  static constexpr std::int64_t kInterval = 16;  // steps
  struct Interval {
    std::int64_t end;  // the step after its last one
    std::function<std::vector<float>()> losses;
  };

  void look() {
    if (!unseen_) return;
    const Interval interval = *std::exchange(unseen_, std::nullopt);
    const std::vector<float> losses = interval.losses();
    const double sum = std::accumulate(losses.begin(), losses.end(), 0.0);
    if (!std::isfinite(sum)) throw NonFiniteLoss{interval.end - 1};
    progress_({interval.end, steps_, sum / double(losses.size())});
    epoch_sum_ += sum;
    if (interval.end % per_epoch_ == 0) means_.push_back(std::exchange(epoch_sum_, 0) / double(per_epoch_));
  }

  Context& ctx_;
  const std::int64_t steps_, per_epoch_;
  const std::function<void(const WindowProgress&)>& progress_;
  const Tensor collected_;             // (kInterval), of which count_ are there
  std::int64_t count_ = 0, step_ = 0;  // step_: all that were added
  std::optional<Interval> unseen_;
  double epoch_sum_ = 0;
  std::vector<double> means_;
};

std::vector<std::int64_t> shuffled(std::int64_t n, Rng& rng) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = n - 1; i > 0; --i) std::swap(order[std::size_t(i)], order[rng.below(std::uint64_t(i + 1))]);
  return order;
}

// Distance of the hardened window, mean over the held-out samples, or of the first trained one if none is held out.
double hard_distance(Context& ctx, const ModelConfig& model, const RunConfig& config,
                     std::span<QuantBlock* const> blocks, const Sequence& one, const WindowData& data) {
  const auto held_out = data.input.size() > data.trained;
  const std::int64_t begin = held_out ? data.trained : 0, end = held_out ? data.input.size() : 1;
  double sum = 0;
  for (std::int64_t i = begin; i < end; ++i) {
    const Tensor y = hard_forward(ctx, model, blocks, one, data.input.load(ctx, i));
    sum += to_host<float>(ctx, distance(ctx, config, data.target.load(ctx, i), y).value)[0];
  }
  return sum / double(end - begin);
}

}  // namespace

std::vector<Window> window_schedule(std::int64_t layers, std::int64_t window, std::int64_t overlap,
                                    WindowSchedule schedule) {
  require(layers > 0 && window > 0 && overlap >= 0 && overlap < window, "windows: ", layers,
          " blocks do not divide into windows of ", window, " with overlap ", overlap);
  const std::int64_t size = std::min(window, layers), stride = size == window ? window - overlap : 1;
  std::vector<Window> windows;
  if (schedule == WindowSchedule::grow)
    for (std::int64_t end = 1; end < size; ++end) windows.push_back({0, end, 0});
  for (std::int64_t begin = 0;; begin += stride) {
    const std::int64_t end = std::min(begin + size, layers);
    if (end < layers) {
      windows.push_back({begin, end, begin + stride});
      continue;
    }
    // The last window; `grow` goes on with the last blocks of it, down to one.
    const std::int64_t last = schedule == WindowSchedule::grow ? layers - 1 : begin;
    for (std::int64_t b = begin; b <= last; ++b) windows.push_back({b, layers, b == last ? layers : b + 1});
    return windows;
  }
}

Tensor hard_forward(Context& ctx, const ModelConfig& model, std::span<QuantBlock* const> blocks,
                    const Sequence& sequence, const Tensor& x) {
  for (QuantBlock* block : blocks) block->use(nullptr, Hardness::hard);
  return window_forward(ctx, model, blocks, sequence, x).value;
}

WindowResult optimise_window(Context& ctx, const ModelConfig& model, const RunConfig& config, const Window& window,
                             std::span<QuantBlock* const> blocks, const Sequence& sequence, const WindowData& data,
                             double lr_factor, std::stop_token stop,
                             const std::function<void(const WindowProgress&)>& progress) {
  const std::int64_t batch = std::min(config.batch_size, data.trained);
  const std::int64_t per_epoch = (data.trained + batch - 1) / batch, steps = per_epoch * config.epochs;
  Sequence one = sequence;
  one.batch = 1;
  WindowResult result;
  result.steps = steps;
  result.start_distance = hard_distance(ctx, model, config, blocks, one, data);
  // The loss is made relative, so that lambda_com and the rates mean the same in every window and model.
  const double unit = result.start_distance > 0 ? 1 / result.start_distance : 1;

  Rng rng(config.seed * 1000003 + std::uint64_t(window.begin) * 1009 + std::uint64_t(window.end));
  {
    WindowStep step(ctx, model, config, blocks, sequence, data, unit, lr_factor, steps);
    LossLog losses(ctx, steps, per_epoch, progress);
    for (std::int64_t done = 0; done < steps;) {
      const std::vector<std::int64_t> order = shuffled(data.trained, rng);
      for (std::int64_t first = 0; first < data.trained; first += batch, ++done) {
        if (stop.stop_requested()) throw Interrupted{};
        const auto samples =
            std::span(order).subspan(std::size_t(first), std::size_t(std::min(batch, data.trained - first)));
        losses.add(step.run(samples, annealing_at(config, done, steps)));
      }
    }
    result.losses = losses.means();
  }
  for (QuantBlock* block : blocks) block->use(nullptr, Hardness::hard);
  result.end_distance = hard_distance(ctx, model, config, blocks, one, data);
  if (!std::isfinite(result.end_distance)) throw NonFiniteLoss{steps};
  return result;
}

}  // namespace cbq
