#include <cmath>

#include "core/error.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

std::string window_chart(const RunRecord& run) {
  const bool from_gptq = text_at(run.report, "config.rounding_start") == "gptq";
  Series start{from_gptq ? "GPTQ, at the start" : "round to nearest, at the start", 1, {}},
      end{"after learning", 0, {}};
  for (std::size_t w = 0; w < run.windows.size(); ++w) {
    start.points.push_back({double(w), number_at(run.windows[w], "start_distance")});
    end.points.push_back({double(w), number_at(run.windows[w], "end_distance")});
  }
  return draw(LineChart{"Distance from full precision behind each window",
                        {"window", Scale::index, Unit::count},
                        {"distance on held-out samples", Scale::log},
                        {start, end}});
}

// One short line a window: its epochs lie between the window's number and the next.
std::string training_chart(const RunRecord& run) {
  LineChart chart{"Training loss by epoch, within each window",
                  {"window", Scale::index, Unit::count},
                  {"mean loss of an epoch, the window's start = 1", Scale::size, Unit::plain},
                  {}};
  for (std::size_t w = 0; w < run.windows.size(); ++w) {
    const Json& losses = list_at(run.windows[w], "losses");
    Series series{"training", 0, {}};
    for (std::size_t e = 0; e < losses.size(); ++e) {
      const double share = losses.size() > 1 ? double(e) / double(losses.size() - 1) - 0.5 : 0;
      series.points.push_back(
          {double(w) + 0.8 * share, losses[e].is_number() ? losses[e].get<double>() : std::nan("")});
    }
    chart.series.push_back(std::move(series));
  }
  return draw(chart);
}

std::string block_chart(const RunRecord& run, const std::string& title, const Axis& y, std::string_view key) {
  LineChart chart;
  chart.title = title;
  chart.x = {"block", Scale::index, Unit::count};
  chart.y = y;
  chart.series.push_back({"round to nearest", 1, points_of(list_at(run.report, "after_block.nearest"), key)});
  chart.series.push_back({"quantised", 0, points_of(list_at(run.report, "after_block.quantised"), key)});
  return draw(chart);
}

}  // namespace

std::vector<Point> points_of(const Json& list, std::string_view key) {
  std::vector<Point> points;
  for (std::size_t i = 0; i < list.size(); ++i) points.push_back({double(i), number_at(list[i], key)});
  return points;
}

std::string chart_grid(const std::string& figures) {
  return figures.empty() ? std::string() : element("div", concat("\n", figures), "class=\"charts\"") + "\n";
}

std::string loss_section(const RunRecord& run) {
  bool has_losses = false;
  for (const Json& window : run.windows) has_losses |= !list_at(window, "losses").empty();
  const Json& quantised = list_at(run.report, "after_block.quantised");
  std::string figures;
  if (has_losses) figures += window_chart(run) + training_chart(run);
  if (!quantised.empty()) {
    figures += block_chart(run, "KL divergence of the hidden states after each block",
                           {"nats a token, over the hidden dimension", Scale::log}, "kl");
    figures += block_chart(run, "Relative error of the hidden states after each block",
                           {"|x_q − x| / |x|", Scale::size, Unit::ratio}, "error");
  }
  if (figures.empty()) return {};
  std::string note;
  if (has_losses)
    note +=
        "Each window compares its blocks, with everything before them quantised, to the full-precision model: mean "
        "square plus KL "
        "divergence, weighted as the config says. ";
  if (!quantised.empty()) note += "The states after each block are those of the evaluation text.";
  return element("h2", "Loss") + element("p", note, "class=\"note\"") + chart_grid(figures);
}

}  // namespace cbq
