#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/progress.h"
#include "models/dataset.h"
#include "models/perplexity.h"
#include "tools/commands.h"
#include "tools/device.h"
#include "tools/output.h"

namespace cbq {

namespace {

constexpr std::int64_t kUsualSeqlen = 2048;  // of published perplexities

Windows read_windows(const EvalOptions& options, const ModelConfig& config, std::int64_t seqlen) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(options.model);
  Windows all;
  for (const std::filesystem::path& file : options.data) {
    const Windows windows =
        eval_windows(token_stream(*tokenizer, read_texts(file), config.vocab), seqlen, options.windows, file);
    all.insert(all.end(), windows.begin(), windows.end());
  }
  return all;
}

std::vector<Tensor> states(Context& ctx, const Model& model, const Windows& windows, const std::string& title) {
  Progress progress(stderr, title, model.config().layers * std::int64_t(windows.size()));
  auto result = hidden_states(
      ctx, model, [&](std::int64_t i) { return model.block(i); }, windows,
      [&](std::int64_t done, std::int64_t) { progress.update(done, ""); });
  progress.finish("");
  return result;
}

Quality measure_all(Context& ctx, const EvalOptions& options, const Model& model, const Windows& windows) {
  if (!options.reference) return measure(ctx, model, states(ctx, model, windows, "blocks"), windows);
  const Model reference(ctx, *options.reference, options.device.compute());
  require_input(reference.config().vocab == model.config().vocab, options.reference->string(),
                ": expected a reference with the model's vocabulary of ", model.config().vocab, ", found ",
                reference.config().vocab);
  const std::vector<Tensor> expected = states(ctx, reference, windows, "reference");
  return measure(ctx, model, states(ctx, model, windows, "blocks"), windows, &reference, &expected);
}

nlohmann::ordered_json result_json(const EvalOptions& options, const Quality& quality, std::int64_t seqlen) {
  nlohmann::ordered_json data = nlohmann::ordered_json::array();
  for (const auto& file : options.data) data.push_back(file.string());
  nlohmann::ordered_json result{{"model", options.model.string()}};
  result["data"] = data.size() == 1 ? data[0] : data;
  result["seqlen"] = seqlen;
  result["windows"] = quality.tokens / seqlen;
  result["tokens"] = quality.tokens;
  result["perplexity"] = quality.perplexity;
  if (options.reference) result["reference"] = options.reference->string();
  if (quality.kl) result["kl"] = *quality.kl;
  if (quality.top1) result["top1"] = *quality.top1;
  return result;
}

std::string result_text(const EvalOptions& options, const Quality& quality, std::int64_t seqlen) {
  std::vector<std::vector<std::string>> rows = {{"model", options.model.string()}};
  for (const auto& file : options.data) rows.push_back({"data", file.string()});
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
  const std::int64_t seqlen = options.seqlen.value_or(std::min(kUsualSeqlen, config.max_positions));
  require_input(seqlen <= config.max_positions, "--seqlen: expected at most ", config.max_positions,
                ", the positions of the model, found ", seqlen);
  const Windows windows = read_windows(options, config, seqlen);
  const std::unique_ptr<Context> ctx = open_device(options.device);
  const Model model(*ctx, options.model, options.device.compute());
  const Quality quality = measure_all(*ctx, options, model, windows);
  require(std::isfinite(quality.perplexity), options.model.string(), ": expected a finite perplexity, found ",
          quality.perplexity, "; the weights or the numbers between blocks overflow");
  if (options.format == ResultFormat::json)
    print_json(result_json(options, quality, seqlen));
  else
    print(result_text(options, quality, seqlen));
}

}  // namespace cbq
