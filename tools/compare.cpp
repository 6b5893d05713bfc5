#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/progress.h"
#include "tools/commands.h"
#include "tools/device.h"
#include "tools/measure.h"
#include "tools/output.h"

namespace cbq {

namespace {

using nlohmann::ordered_json;

struct Row {
  std::string model;
  Quality quality;
  double bits_per_weight;  // of the linear layers in the blocks, step sizes and zero points included
  std::int64_t bytes;      // of all tensors
};

double bits_per_weight(const Model& model) {
  const ModelConfig& config = model.config();
  const Checkpoint& checkpoint = model.checkpoint();
  const std::vector<std::string> names = checkpoint.names();  // sorted
  std::int64_t bytes = 0, weights = 0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    for (const LinearRole role : linear_roles(config.family)) {
      const std::string prefix = linear_name(config, layer, role) + ".";
      weights += weight_shape(config, role).count();
      for (auto name = std::ranges::lower_bound(names, prefix); name != names.end() && name->starts_with(prefix);
           ++name)
        if (*name != prefix + "bias") bytes += checkpoint.info(*name).bytes;
    }
  return 8.0 * double(bytes) / double(weights);
}

Row row_of(const Model& model, Quality quality) {
  require_finite(quality, model.folder());
  return {model.folder().string(), quality, bits_per_weight(model), model.checkpoint().total_bytes()};
}

std::vector<Row> compare(Context& ctx, const CompareOptions& options, const Windows& windows) {
  const Model reference(ctx, options.models.front(), options.device.compute());
  const std::vector<Tensor> expected = own_states(ctx, reference, windows, reference.folder().string());
  std::vector<Row> rows = {row_of(reference, measure(ctx, reference, expected, windows))};
  for (std::size_t i = 1; i < options.models.size(); ++i) {
    const Model model(ctx, options.models[i], options.device.compute());
    require_one_vocabulary(reference, model);
    const std::vector<Tensor> states = own_states(ctx, model, windows, model.folder().string());
    rows.push_back(row_of(model, measure(ctx, model, states, windows, &reference, &expected)));
  }
  return rows;
}

ordered_json result_json(const CompareOptions& options, const std::vector<Row>& rows, std::int64_t seqlen) {
  ordered_json models = ordered_json::array();
  for (const Row& row : rows) {
    models.push_back({{"model", row.model}, {"perplexity", row.quality.perplexity}});
    if (row.quality.kl) models.back()["kl"] = *row.quality.kl;
    if (row.quality.top1) models.back()["top1"] = *row.quality.top1;
    models.back().update({{"bits_per_weight", row.bits_per_weight}, {"bytes", row.bytes}});
  }
  return {{"data", data_json(options.data)},
          {"seqlen", seqlen},
          {"windows", rows.front().quality.tokens / seqlen},
          {"models", models}};
}

std::string result_text(const CompareOptions& options, const std::vector<Row>& rows, std::int64_t seqlen) {
  constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::string text = concat(rows.front().quality.tokens / seqlen, " windows of ", seqlen, " tokens of");
  for (const auto& file : options.data.files) text += concat(" ", file.string());
  std::vector<std::vector<std::string>> lines = {{"model", "perplexity", "KL", "top-1 %", "bits/weight", "size"}};
  for (const Row& row : rows)
    lines.push_back({row.model, fixed(row.quality.perplexity, 4), fixed(row.quality.kl.value_or(kNone), 5),
                     fixed(100 * row.quality.top1.value_or(kNone), 2), fixed(row.bits_per_weight, 3),
                     format_bytes(row.bytes)});
  return text + "\n\n" + aligned(lines);
}

}  // namespace

void compare_command(const CompareOptions& options) {
  const ModelConfig config = read_model_config(options.models.front());
  const std::int64_t seqlen = window_length(options.data, config);
  const Windows windows = read_windows(options.data, options.models.front(), config, seqlen);
  const std::unique_ptr<Context> ctx = open_device(options.device);
  const std::vector<Row> rows = compare(*ctx, options, windows);
  if (options.format == ResultFormat::json)
    print_json(result_json(options, rows, seqlen));
  else
    print(result_text(options, rows, seqlen));
}

}  // namespace cbq
