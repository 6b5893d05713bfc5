#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/device.h"
#include "tools/measure.h"
#include "tools/output.h"

namespace cbq {

namespace {

Quality measure_all(Context& ctx, const EvalOptions& options, const Model& model, const Windows& windows) {
  if (!options.reference) return measure(ctx, model, own_states(ctx, model, windows, "blocks"), windows);
  const Model reference(ctx, *options.reference, options.device.compute());
  require_one_vocabulary(reference, model);
  const std::vector<Tensor> expected = own_states(ctx, reference, windows, "reference");
  return measure(ctx, model, own_states(ctx, model, windows, "blocks"), windows, &reference, &expected);
}

nlohmann::ordered_json result_json(const EvalOptions& options, const Quality& quality, std::int64_t seqlen) {
  nlohmann::ordered_json result{
      {"model", options.model.string()},    {"data", data_json(options.data)}, {"seqlen", seqlen},
      {"windows", quality.tokens / seqlen}, {"tokens", quality.tokens},        {"perplexity", quality.perplexity}};
  if (options.reference) result["reference"] = options.reference->string();
  if (quality.kl) result["kl"] = *quality.kl;
  if (quality.top1) result["top1"] = *quality.top1;
  return result;
}

std::string result_text(const EvalOptions& options, const Quality& quality, std::int64_t seqlen) {
  std::vector<std::vector<std::string>> rows = {{"model", options.model.string()}};
  for (const auto& file : options.data.files) rows.push_back({"data", file.string()});
  rows.push_back({"windows", concat(quality.tokens / seqlen, " of ", seqlen, " tokens")});
  rows.push_back({"perplexity", fixed(quality.perplexity, 4)});
  if (options.reference) rows.push_back({"reference", options.reference->string()});
  if (quality.kl) rows.push_back({"KL divergence", fixed(*quality.kl, 5) + " nats a token"});
  if (quality.top1) rows.push_back({"top-1 agreement", fixed(100 * *quality.top1, 2) + " %"});
  std::string text;
  for (const auto& row : rows) text += row[0] + std::string(17 - row[0].size(), ' ') + row[1] + "\n";
  return text;
}

}  // namespace

void eval_command(const EvalOptions& options) {
  const ModelConfig config = read_model_config(options.model);
  const std::int64_t seqlen = window_length(options.data, config);
  const Windows windows = read_windows(options.data, options.model, config, seqlen);
  const std::unique_ptr<Context> ctx = open_device(options.device);
  const Model model(*ctx, options.model, options.device.compute());
  const Quality quality = measure_all(*ctx, options, model, windows);
  require_finite(quality, options.model);
  if (options.format == ResultFormat::json)
    print_json(result_json(options, quality, seqlen));
  else
    print(result_text(options, quality, seqlen));
}

}  // namespace cbq
