#include "quant/evaluation.h"

#include <cmath>

#include "core/kernels.h"
#include "core/progress.h"
#include "quant/cross_block.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kNewTokens = 48;    // a sentence or two: enough to see whether a model still speaks
constexpr double kRoomBesideModel = 1.25;  // of its blocks: keys, values, activations, logits

Json quality_json(const Quality& q) {
  return {{"perplexity", q.perplexity}, {"kl", q.kl.value_or(0)}, {"top1", q.top1.value_or(1)}, {"tokens", q.tokens}};
}

double mean_square(Context& ctx, const Tensor& a, const Tensor& b) {
  const Tensor mean(ctx, {1}, statistics_dtype(a.dtype()));
  ctx.kernels->mse_forward(ctx, mean, a, b);
  return to_host<double>(ctx, mean)[0];
}

Json block_distance(Context& ctx, const HiddenStates& reference, const HiddenStates& states) {
  double kl = 0, distance = 0, square = 0, rows = 0;
  for (std::size_t g = 0; g < states.groups().size(); ++g) {
    const Tensor &x = reference.groups()[g], &x_q = states.groups()[g];
    const Tensor of_rows(ctx, {x.rows()}, statistics_dtype(x.dtype()));
    ctx.kernels->kl_forward(ctx, of_rows, x, x_q);
    for (const double row : to_host<double>(ctx, of_rows)) kl += row;
    const double count = double(x.rows());
    distance += count * mean_square(ctx, x_q, x);
    square += count * mean_square(ctx, full(ctx, x.shape(), x.dtype(), 0), x);
    rows += count;
  }
  return {{"kl", kl / rows}, {"error", square > 0 ? std::sqrt(distance / square) : 0}};
}

std::unique_ptr<BlockLayers> nearest_block(Context& ctx, const EvaluatedModel& evaluated, std::int64_t layer,
                                           const BlockWeights& weights) {
  const ModelConfig& m = evaluated.model.config();
  Rng rng(0);  // nearest draws nothing
  const QuantBlock block(ctx, m, weights, evaluated.specs[std::size_t(layer)],
                         ActivationSpec{evaluated.config.kv_bits, Symmetry::asymmetric}, {}, rng);
  return dense_block(ctx, m, block.harden(ctx, m.dtype));
}

std::unique_ptr<BlockLayers> quantised_block(Context& ctx, const EvaluatedModel& evaluated, std::int64_t layer) {
  const Model& model = evaluated.model;
  return dense_block(ctx, model.config(), evaluated.store.load_block(ctx, model.config(), layer, model.compute()));
}

}  // namespace

Json evaluate_run(Context& ctx, const EvaluatedModel& evaluated, const Windows& windows, std::FILE* log,
                  const std::stop_token& stop) {
  const Model& model = evaluated.model;
  const std::int64_t layers = model.config().layers;
  Progress progress(log, "evaluate", 3 * layers * std::ssize(windows));
  std::int64_t done = 0;
  const auto count = [&](std::int64_t passed) {
    if (stop.stop_requested()) throw Interrupted{};
    progress.update(done += passed, "");
  };
  HiddenStates full(ctx, model, windows), nearest(ctx, model, windows), quantised(ctx, model, windows);
  Json after = {{"nearest", Json::array()}, {"quantised", Json::array()}};
  for (std::int64_t i = 0; i < layers; ++i) {
    {
      const auto block = model.block(i);
      full.advance(*block, count);
      nearest.advance(*nearest_block(ctx, evaluated, i, block->weights()), count);
    }
    quantised.advance(*quantised_block(ctx, evaluated, i), count);
    after["nearest"].push_back(block_distance(ctx, full, nearest));
    after["quantised"].push_back(block_distance(ctx, full, quantised));
  }
  progress.finish("");
  const std::vector<Tensor> reference = full.windows();
  Json results;
  results["full_precision"] = quality_json(measure(ctx, model, reference, windows));
  results["nearest"] = quality_json(measure(ctx, model, nearest.windows(), windows, &model, &reference));
  results["quantised"] = quality_json(measure(ctx, model, quantised.windows(), windows, &model, &reference));
  return {{"results", results}, {"after_block", after}};
}

Json continue_prompts(Context& ctx, const EvaluatedModel& evaluated, const Tokenizer& tokenizer) {
  const Model& model = evaluated.model;
  Json texts = Json::array();
  for (const std::string& prompt : evaluated.config.eval.prompts) texts.push_back({{"prompt", prompt}});
  const double bytes = double(parameter_count(model.config()) * size_of(model.compute()));
  const bool fits = kRoomBesideModel * bytes <= double(ctx.bytes_available());
  const auto continue_all = [&](const char* key, const BlockSource& blocks) {
    Generator generator(ctx, model, blocks);
    for (Json& text : texts) try {
        text[key] = generate(generator, tokenizer, text["prompt"].get<std::string>(), {.max_tokens = kNewTokens}, {});
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::bad_input) throw;
        text["skipped"] = error.what();
      }
  };
  if (!fits)
    for (Json& text : texts)
      text["skipped"] = concat("the whole model takes ", format_bytes(std::int64_t(bytes)), ", and the device has ",
                               format_bytes(ctx.bytes_available()));
  if (texts.empty() || !fits) return texts;
  continue_all("before", [&](std::int64_t i) { return model.block(i); });
  continue_all("after", [&](std::int64_t i) { return quantised_block(ctx, evaluated, i); });
  return texts;
}

}  // namespace cbq
