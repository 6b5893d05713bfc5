#include "quant/memory_plan.h"

#include <algorithm>

#include "core/dry_run.h"
#include "core/progress.h"
#include "quant/cross_block.h"
#include "quant/gptq.h"
#include "quant/metrics.h"
#include "quant/reconstruct.h"

namespace cbq {
namespace {

// Passes of the dry run over its one batch. The annealed kinds spend half of them soft, half hardened.
constexpr std::int64_t kPasses = 4;

std::int64_t quantised_elements(const ModelConfig& model, const BlockSpec& spec) {
  std::int64_t sum = 0;
  for (const LinearRole role : linear_roles(model.family))
    if (spec[std::size_t(role)].weight.quantised()) sum += weight_shape(model, role).count();
  return sum;
}

// First block of the window of `count` blocks with the most to learn.
std::size_t heaviest_window(const ModelConfig& model, const std::vector<BlockSpec>& specs, std::size_t count) {
  std::size_t best = 0;
  std::int64_t most = -1;
  for (std::size_t begin = 0; begin + count <= specs.size(); ++begin) {
    std::int64_t sum = 0;
    for (std::size_t i = begin; i < begin + count; ++i) sum += quantised_elements(model, specs[i]);
    if (sum > most) most = sum, best = begin;
  }
  return best;
}

// What quantise_weight_backward keeps for itself on the CPU, for the largest weight with factors a1 a2.
std::int64_t backward_scratch(const RunConfig& config, const ModelConfig& model, const BlockSpec& spec) {
  std::int64_t largest = 0;
  const bool is_factored = config.rounding == RoundingKind::lora || config.rounding == RoundingKind::lora_ste;
  if (!is_factored || config.device != Device::cpu) return 0;
  for (const LinearRole role : linear_roles(model.family))
    if (spec[std::size_t(role)].weight.quantised())
      largest = std::max(largest, weight_shape(model, role).count() * size_of(DType::f32));
  return largest;
}

// Counts what has been added between calls.
class Items {
 public:
  explicit Items(const Allocator& allocator) : allocator_(allocator) {}
  void add(const std::string& what, std::int64_t bytes) { items_.push_back({what, bytes}); }
  // All that came into use since the last call, or since construction.
  void add_new(const std::string& what) {
    add(what, allocator_.bytes_in_use() - seen_);
    seen_ = allocator_.bytes_in_use();
  }
  // What was in use at the peak beyond the items so far.
  void add_rest(const std::string& what) { add(what, allocator_.peak_bytes() - seen_); }
  std::vector<MemoryItem> take() { return std::move(items_); }

 private:
  const Allocator& allocator_;
  std::int64_t seen_ = 0;
  std::vector<MemoryItem> items_;
};

// Of the blocks that enter with a window while the one before is learned.
std::int64_t bytes_read_ahead(const RunConfig& run, const Model& model) {
  if (run.device == Device::cpu) return 0;
  std::int64_t most = 0;
  const std::vector<Window> windows = plan_windows(run, model.config().layers);
  for (std::size_t w = 1; w < windows.size(); ++w) {
    std::int64_t sum = 0;
    for (std::int64_t layer = windows[w - 1].end; layer < windows[w].end; ++layer)
      sum += model.checkpoint().bytes_below(block_name(model.config(), layer));
    most = std::max(most, sum);
  }
  return most;
}

// Contents undefined.
Stream new_stream(Context& ctx, const RunConfig& run, const Model& model, std::int64_t samples, Offload offload) {
  return {ctx, samples, {run.seqlen, model.config().hidden}, model.compute(), {offload, {}}};
}

MemoryPlan plan_with(const RunConfig& run, const std::vector<BlockSpec>& specs, std::int64_t calibration_samples,
                     Offload offload) {
  const auto dry = open_dry_run(run.device);
  Context& ctx = *dry;
  const Model model(ctx, run.model, compute_dtype(run.precision, run.device));
  const ModelConfig& shape = model.config();
  Items items(*ctx.allocator);
  items.add_new("embeddings and head");
  // A file is as good as host memory here: neither is on the device, and a sample in use is.
  const Offload elsewhere = offload == Offload::device ? Offload::device : Offload::host;
  const Stream quantised = new_stream(ctx, run, model, calibration_samples, elsewhere),
               full = new_stream(ctx, run, model, calibration_samples, elsewhere),
               homologous = new_stream(ctx, run, model, run.homologous ? calibration_samples : 0, elsewhere);
  items.add_new("activation streams");

  const std::int64_t count = run.method == Method::cbq ? std::min(run.window, shape.layers) : 1;
  const std::size_t begin = heaviest_window(shape, specs, std::size_t(count));
  std::vector<BlockWeights> weights;
  for (std::int64_t i = 0; i < count; ++i) weights.push_back(model.block_weights(std::int64_t(begin) + i));
  items.add_new("weights of the window");
  std::vector<std::unique_ptr<QuantBlock>> blocks;
  std::vector<QuantBlock*> window;
  Rng rng(0);
  for (std::int64_t i = 0; i < count; ++i) {
    // The homologous branch keeps the weights of full precision, which a start from GPTQ replaces.
    BlockWeights own = run.homologous ? weights[std::size_t(i)] : std::move(weights[std::size_t(i)]);
    blocks.push_back(std::make_unique<QuantBlock>(ctx, shape, std::move(own), specs[begin + std::size_t(i)],
                                                  ActivationSpec{run.kv_bits, Symmetry::asymmetric},
                                                  rounding_options(run), rng));
    window.push_back(blocks.back().get());
  }
  items.add_new("learned parameters and grids");

  const Sequence sequence = make_sequence(ctx, shape, 1, 0, run.seqlen, model.compute());
  if (rounding_options(run).rounding_start == RoundingStart::gptq)
    start_from_gptq(ctx, shape, window, 0, quantised, 1, {run.act_order, run.damping});
  if (run.method == Method::cbq) {
    RunConfig short_run = run;
    short_run.epochs = kPasses;
    short_run.hard_fraction = 0.5;
    short_run.batch_size = std::min(run.batch_size, calibration_samples);
    optimise_window(ctx, shape, short_run, {0, count, count}, window, sequence,
                    {quantised, full, homologous, short_run.batch_size}, 1, {}, [](const WindowProgress&) {});
    items.add("scratch of the largest weight gradient", backward_scratch(run, shape, specs[begin]));
  }
  const HardBlock done = window[0]->harden(ctx, shape.dtype);
  const bool is_replaced = rounding_options(run).rounding_start == RoundingStart::gptq;
  finished_metrics(ctx, shape, 0, is_replaced ? model.block_weights(std::int64_t(begin)) : window[0]->weights(),
                   *window[0], done);
  if (quantised.size() > 0) block_forward(ctx, shape, *dense_block(ctx, shape, done), quantised.load(ctx, 0), sequence);
  items.add_rest("one step: quantised weights, activations, gradients, moments");
  const std::int64_t elsewhere_bytes = ctx.host_allocator->peak_bytes();
  return {offload, items.take(), offload == Offload::host ? elsewhere_bytes : 0,
          offload == Offload::disk ? elsewhere_bytes : 0, bytes_read_ahead(run, model)};
}

// Where streams go when there is no room for them at `now`. The memory of the CPU is the host's: there only a disk
// helps.
Offload roomier_place(Device device, Offload now) {
  return device == Device::cpu || now != Offload::device ? Offload::disk : Offload::host;
}

}  // namespace

std::int64_t MemoryPlan::device_bytes() const {
  std::int64_t sum = 0;
  for (const MemoryItem& item : device) sum += item.bytes;
  return sum;
}

MemoryPlan plan_memory(const RunConfig& config, const std::vector<BlockSpec>& specs, std::int64_t calibration_samples,
                       std::int64_t available) {
  if (config.offload != Offload::automatic) return plan_with(config, specs, calibration_samples, config.offload);
  MemoryPlan plan = plan_with(config, specs, calibration_samples, Offload::device);
  if (plan.device_bytes() <= available) return plan;
  return plan_with(config, specs, calibration_samples, roomier_place(config.device, Offload::device));
}

std::string roomier_setting(Device device, Offload now) {
  if (now == Offload::disk) return "";
  return roomier_place(device, now) == Offload::disk ? "\"offload\": \"disk\"" : "\"offload\": \"host\"";
}

std::string smaller_settings(const RunConfig& config) {
  const bool is_factored = config.rounding == RoundingKind::lora || config.rounding == RoundingKind::lora_ste;
  std::string settings;
  const auto suggest = [&settings](const char* setting) {
    settings += concat(settings.empty() ? "" : ", or ", setting);
  };
  if (config.method == Method::cbq) {
    if (config.batch_size > 1) suggest("a smaller batch_size");
    if (config.window > 1) suggest("a smaller window");
    if (!is_factored) suggest("rounding lora_ste");
    if (is_factored && config.rank > 1) suggest("a smaller rank");
  }
  suggest("a shorter seqlen");
  return settings;
}

void require_fits(const MemoryPlan& plan, const RunConfig& config, std::int64_t available) {
  if (plan.device_bytes() <= available) return;
  // Streams that are elsewhere already take nothing of the device.
  const std::string place = plan.offload == Offload::device ? roomier_setting(config.device, plan.offload) : "";
  fail(ErrorKind::bad_input, "memory: the run needs ", format_bytes(plan.device_bytes()), " of the device, ",
       format_bytes(available), " are free; use ", place, place.empty() ? "" : ", or ", smaller_settings(config));
}

}  // namespace cbq
