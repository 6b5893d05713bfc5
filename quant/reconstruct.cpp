#include "quant/reconstruct.h"

#include <chrono>
#include <fstream>

#include "core/progress.h"
#include "quant/gptq.h"
#include "quant/metrics.h"

namespace cbq {
namespace {

constexpr double kRetryRate = 0.1;  // of all learning rates, after a loss that was not finite

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string layer_prefix(std::int64_t layer) {
  return std::to_string(layer) + ".";
}

}  // namespace

std::vector<Window> plan_windows(const RunConfig& config, std::int64_t layers) {
  if (config.method != Method::cbq) return window_schedule(layers, 1, 0, WindowSchedule::fixed);
  return window_schedule(layers, config.window, config.overlap, config.window_schedule);
}

RoundingOptions rounding_options(const RunConfig& config) {
  const auto steps = [](bool learned) { return learned ? StepSizes::learned : StepSizes::fixed; };
  const bool learns = config.method == Method::cbq;
  const RoundingStart fixed = config.method == Method::gptq ? RoundingStart::gptq : RoundingStart::nearest;
  return {learns ? config.rounding : RoundingKind::nearest,
          config.start,
          learns ? config.rounding_start : fixed,
          config.rank,
          steps(config.learn_scale),
          steps(config.learn_activation)};
}

bool needs_calibration(const RunConfig& config) {
  return config.method != Method::rtn || (config.cfp != CfpPreset::off && config.cfp_activations);
}

Reconstruction::Reconstruction(Context& ctx, const Model& model, const RunConfig& config, std::vector<BlockSpec> specs,
                               Windows samples, RunStore& store, std::FILE* log)
    : ctx_(ctx),
      model_(model),
      config_(config),
      specs_(std::move(specs)),
      samples_(std::move(samples)),
      store_(store),
      log_(log),
      windows_(plan_windows(config, model.config().layers)),
      sequence_(make_sequence(ctx, model.config(), 1, 0, samples_.empty() ? 1 : std::int64_t(samples_[0].size()),
                              model.compute())) {}

void Reconstruction::run(const std::filesystem::path& metrics, std::stop_token stop) {
  const auto done = std::size_t(store_.windows_done());
  require(done <= windows_.size(), "resume: the state counts ", done, " windows, the config means ", windows_.size());
  keep_metrics_of(metrics, std::int64_t(done));
  if (done == windows_.size()) return;
  const std::int64_t begin = done > 0 ? windows_[done - 1].next : 0;
  restart_streams(begin, done > 0 ? windows_[done - 1].end : 0);
  if (done > 0) restore_active(windows_[done - 1]);

  for (std::size_t w = done; w < windows_.size(); ++w) {
    if (stop.stop_requested()) throw Interrupted{};
    const auto start = Clock::now();
    ctx_.allocator->reset_peak();
    for (; front_ < windows_[w].end; ++front_) enter(front_);
    if (w + 1 < windows_.size()) model_.read_ahead(front_, windows_[w + 1].end);
    nlohmann::json line = window_metrics(w, windows_[w], solve_with_retry(w, stop));
    line["entered"] = std::exchange(entered_, nlohmann::json::array());
    line["finished"] = nlohmann::json::array();
    for (std::int64_t layer = windows_[w].begin; layer < windows_[w].next; ++layer)
      line["finished"].push_back(leave(layer));
    line["peak_bytes"] = ctx_.allocator->peak_bytes();
    line["process_bytes"] = process_peak_bytes();
    line["seconds"] = seconds_since(start);
    std::ofstream(metrics, std::ios::app) << line.dump() << "\n";
    store_.save_window(ctx_, std::int64_t(w) + 1, active_state(), {{"front", front_}});
    ctx_.allocator->trim();
  }
}

// Both streams as they were when the run stopped: x_q through the finished blocks, y_f through the full-precision ones.
void Reconstruction::restart_streams(std::int64_t begin, std::int64_t front) {
  front_ = front;
  if (!needs_calibration(config_)) return;
  quantised_ = embed_all(ctx_, model_, samples_, {config_.offload, store_.folder()});
  full_ = quantised_.copy(ctx_);
  if (front == 0) return;
  Progress progress(log_, "resume", begin + front);
  for (std::int64_t layer = 0; layer < begin; ++layer) {
    const auto block =
        dense_block(ctx_, model_.config(), store_.load_block(ctx_, model_.config(), layer, model_.compute()));
    advance(ctx_, model_.config(), *block, sequence_, quantised_);
    progress.update(layer + 1, "finished blocks");
  }
  for (std::int64_t layer = 0; layer < front; ++layer) {
    advance(ctx_, model_.config(), *model_.block(layer), sequence_, full_);
    progress.update(begin + layer + 1, "full-precision blocks");
  }
  progress.finish("streams restored");
}

// Block `layer` joins the window: the full-precision stream passes it, and its student is made.
void Reconstruction::enter(std::int64_t layer) {
  auto teacher = model_.block(layer);
  BlockRanges ranges;
  if (needs_calibration(config_)) {
    RangeObserver observer(*teacher, ranges);
    const bool observed = config_.cfp != CfpPreset::off && config_.cfp_activations;
    advance(ctx_, model_.config(), observed ? static_cast<BlockLayers&>(observer) : *teacher, sequence_, full_);
  }
  CfpPlan plan;
  if (config_.cfp != CfpPreset::off) {
    plan = plan_cfp(ctx_, model_.config(), teacher->weights(), ranges, config_);
    entered_.push_back(entered_metrics(model_.config(), layer, plan, ranges));
  }
  active_.emplace(layer, make_active(layer, teacher->weights(), std::move(plan)));
  if (config_.homologous && config_.method == Method::cbq) active_.at(layer).teacher = std::move(teacher);
}

Reconstruction::Active Reconstruction::make_active(std::int64_t layer, BlockWeights weights, CfpPlan plan) {
  const ModelConfig& model = model_.config();
  apply_cfp(ctx_, model, weights, plan, model.dtype);
  Rng rng(config_.seed * 1000003 + std::uint64_t(layer));
  auto student = std::make_unique<QuantBlock>(ctx_, model, std::move(weights), specs_[std::size_t(layer)],
                                              ActivationSpec{config_.kv_bits, Symmetry::asymmetric},
                                              rounding_options(config_), rng);
  return {std::move(plan), std::move(student), nullptr};
}

// The blocks that stay in work after window `before`, from the saved state.
void Reconstruction::restore_active(const Window& before) {
  const auto state = store_.load_state(ctx_);
  active_.clear();
  for (std::int64_t layer = before.next; layer < before.end; ++layer) {
    const auto saved = with_prefix(state, layer_prefix(layer));
    Active active =
        make_active(layer, model_.block_weights(layer), CfpPlan::from_state(ctx_, with_prefix(saved, "cfp.")));
    active.student->restore(ctx_, with_prefix(saved, "student."));
    if (config_.homologous) active.teacher = model_.block(layer);
    active_.emplace(layer, std::move(active));
  }
}

std::map<std::string, Tensor> Reconstruction::active_state() {
  std::map<std::string, Tensor> all;
  for (auto& [layer, active] : active_) {
    for (const auto& [name, tensor] : active.student->state()) all[layer_prefix(layer) + "student." + name] = tensor;
    for (const auto& [name, tensor] : active.plan.state(ctx_)) all[layer_prefix(layer) + "cfp." + name] = tensor;
  }
  return all;
}

WindowResult Reconstruction::solve(std::size_t index, double lr_factor, std::stop_token stop) {
  const ModelConfig& model = model_.config();
  const Window& window = windows_[index];
  std::vector<QuantBlock*> blocks;
  for (std::int64_t layer = window.begin; layer < window.end; ++layer)
    blocks.push_back(active_.at(layer).student.get());
  if (rounding_options(config_).rounding_start == RoundingStart::gptq)
    start_from_gptq(ctx_, model, blocks, std::size_t(first_new(index) - window.begin), quantised_, config_.nsamples,
                    {config_.act_order, config_.damping});
  if (config_.method != Method::cbq) return {};
  Stream homologous;
  if (config_.homologous) {
    homologous = quantised_.copy(ctx_);
    for (std::int64_t layer = window.begin; layer < window.end; ++layer)
      advance(ctx_, model, *active_.at(layer).teacher, sequence_, homologous);
  }
  const WindowData data{quantised_, full_, homologous, config_.nsamples};
  const std::string title = concat("blocks ", window.begin, " .. ", window.end - 1, " of ", model.layers);
  Progress progress(log_, title, config_.epochs * ((config_.nsamples + config_.batch_size - 1) / config_.batch_size));
  const WindowResult result =
      optimise_window(ctx_, model, config_, window, blocks, sequence_, data, lr_factor, stop,
                      [&](const WindowProgress& p) { progress.update(p.step, concat("loss ", p.loss)); });
  progress.finish(concat("distance ", result.start_distance, " -> ", result.end_distance, " on held-out samples"));
  return result;
}

WindowResult Reconstruction::solve_with_retry(std::size_t index, std::stop_token stop) {
  const Window& window = windows_[index];
  try {
    return solve(index, 1, stop);
  } catch (const NonFiniteLoss& first) {
    std::fprintf(log_,
                 "cbq: the loss of blocks %lld .. %lld was not finite at step %lld; once more from the last good state "
                 "at a tenth of the rate\n",
                 static_cast<long long>(window.begin), static_cast<long long>(window.end - 1),
                 static_cast<long long>(first.step));
  }
  // Blocks that entered with this window start anew; those that stayed come back from the store.
  std::map<std::int64_t, Active> entered;
  for (auto& [layer, active] : active_) {
    if (layer < first_new(index)) continue;
    Active fresh = make_active(layer, model_.block_weights(layer), active.plan);
    fresh.teacher = std::move(active.teacher);
    entered.emplace(layer, std::move(fresh));
  }
  active_.clear();
  if (index > 0) restore_active(windows_[index - 1]);
  active_.merge(entered);
  try {
    return solve(index, kRetryRate, stop);
  } catch (const NonFiniteLoss& second) {
    fail(ErrorKind::failure, "reconstruction: the loss of blocks ", window.begin, " .. ", window.end - 1,
         " was not finite, and again at step ", second.step,
         " at a tenth of the rate; the state before this window is kept in ", store_.folder().string(),
         "; look for extreme weights with `cbq inspect`, or lower lr and start anew in another output_dir");
  }
}

// What the block in work was given. GPTQ's weights took their place where it started from those: read once more then.
BlockWeights Reconstruction::own_weights(std::int64_t layer) {
  const Active& active = active_.at(layer);
  if (rounding_options(config_).rounding_start != RoundingStart::gptq) return active.student->weights();
  BlockWeights weights = model_.block_weights(layer);
  apply_cfp(ctx_, model_.config(), weights, active.plan, model_.config().dtype);
  return weights;
}

// Block `layer` is done: to integers, to disk, and x_q passes it.
nlohmann::json Reconstruction::leave(std::int64_t layer) {
  const HardBlock hard = active_.at(layer).student->harden(ctx_, model_.config().dtype);
  store_.save_block(ctx_, layer, hard, model_.config().dtype);
  nlohmann::json metrics =
      finished_metrics(ctx_, model_.config(), layer, own_weights(layer), *active_.at(layer).student, hard);
  if (needs_calibration(config_))
    advance(ctx_, model_.config(), *dense_block(ctx_, model_.config(), hard), sequence_, quantised_);
  active_.erase(layer);
  return metrics;
}

}  // namespace cbq
