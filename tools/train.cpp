#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/progress.h"
#include "tools/commands.h"
#include "tools/device.h"
#include "tools/interrupts.h"
#include "tools/output.h"
#include "tools/train_config.h"

namespace cbq {

namespace {

// Mean of the last tenth of the steps: single batches differ.
double final_loss(const std::vector<double>& losses) {
  const auto count = std::max<std::ptrdiff_t>(1, std::ssize(losses) / 10);
  return std::accumulate(losses.end() - count, losses.end(), 0.0) / double(count);
}

nlohmann::ordered_json result_json(const TrainConfig& config, const TrainingReport& report) {
  nlohmann::ordered_json result = {{"output_dir", config.output_dir.string()},
                                   {"parameters", report.parameters},
                                   {"steps", report.steps},
                                   {"tokens", report.tokens},
                                   {"first_loss", report.losses.front()},
                                   {"final_loss", final_loss(report.losses)}};
  if (report.perplexity) result["perplexity"] = *report.perplexity;
  return result;
}

std::string result_text(const TrainConfig& config, const TrainingReport& report) {
  std::string text =
      concat("model       ", config.output_dir.string(), "\nparameters  ", format_count(report.parameters),
             "\ntokens      ", format_count(report.tokens), " in ", report.steps, " steps\nloss        ",
             fixed(report.losses.front(), 3), " -> ", fixed(final_loss(report.losses), 3), " nats a token\n");
  if (report.perplexity) text += concat("perplexity  ", fixed(*report.perplexity, 4), " on the validation text\n");
  return text;
}

}  // namespace

void train_command(const TrainOptions& options) {
  const TrainConfig config = read_train_config(options.config, options.settings);
  const Interrupts interrupts;
  const std::unique_ptr<Context> ctx = open_device({config.device, config.threads});
  const TrainingReport report = train(*ctx, config, stderr, interrupts.token());
  if (options.format == ResultFormat::json)
    print_json(result_json(config, report));
  else
    print(result_text(config, report));
}

}  // namespace cbq
