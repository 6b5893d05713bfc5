#include "quant/report/page.h"

#include <cmath>

#include "core/error.h"
#include "core/progress.h"
#include "quant/report/page_frame.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

std::string subtitle(const RunRecord& run) {
  const Json &report = run.report, &config = value_at(report, "config");
  std::string text = method_text(config);
  if (const std::string architecture = text_at(report, "model.architecture"); !architecture.empty())
    text += concat(" · ", architecture, ", ", number_text(number_at(report, "model.blocks"), Unit::count), " blocks, ",
                   format_count(std::int64_t(number_at(report, "model.parameters"))), " parameters");
  if (!list_at(config, "dataset").empty())
    text += concat(" · ", number_text(number_at(config, "nsamples"), Unit::count), " samples of ",
                   number_text(number_at(config, "seqlen"), Unit::count), " tokens");
  return text;
}

}  // namespace

std::string scheme_text(const Json& config) {
  const double group = number_at(config, "group_size");
  std::string text = concat("W", number_text(number_at(config, "wbits"), Unit::count), "A",
                            number_text(number_at(config, "abits"), Unit::count));
  if (const double kv = number_at(config, "kv_bits"); kv < 16) text += concat("KV", number_text(kv, Unit::count));
  if (group > 0) text += concat(" g", number_text(group, Unit::count));
  if (value_at(config, "sym") == true) text += " sym";
  return text;
}

std::string method_text(const Json& config) {
  const std::string method = text_at(config, "method");
  if (method == "gptq") return "GPTQ";
  if (method == "rtn") return "round to nearest";
  return concat("cross-block reconstruction, windows of ", number_text(number_at(config, "window"), Unit::count),
                ", rounding ", text_at(config, "rounding"),
                text_at(config, "rounding_start") == "gptq" ? " from GPTQ" : "");
}

std::string model_name(const Json& config) {
  const std::filesystem::path path = text_at(config, "model");
  const std::string last = path.filename().string(), before = path.parent_path().filename().string();
  return last == "model" && !before.empty() ? before : last;
}

std::string run_page(const RunRecord& run) {
  const Json& config = value_at(run.report, "config");
  const std::string title = model_name(config) + ", " + scheme_text(config);
  return page_frame(title, subtitle(run),
                    result_section(run) + loss_section(run) + layer_section(run) + outlier_section(run) +
                        cost_section(run) + provenance_section(run));
}

}  // namespace cbq
