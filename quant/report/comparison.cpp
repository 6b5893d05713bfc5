#include <cmath>
#include <map>
#include <utility>

#include "core/error.h"
#include "quant/report/page.h"
#include "quant/report/page_frame.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;
using Runs = std::span<const RunRecord>;

double total_seconds(const Json& report) {
  double sum = 0;
  const Json& phases = value_at(report, "time_s");
  if (!phases.is_object()) return std::nan("");
  for (const auto& [phase, seconds] : phases.items())
    if (const double took = number_at(phases, phase); std::isfinite(took)) sum += took;
  return sum;
}

std::string result_table(Runs runs) {
  std::vector<std::vector<std::string>> rows;
  for (const RunRecord& run : runs) {
    const auto cell = [&](const char* path, Unit unit) { return number_html(number_at(run.report, path), unit); };
    const Json& config = value_at(run.report, "config");
    rows.push_back({element("strong", escaped(run.name)), escaped(model_name(config) + " " + scheme_text(config)),
                    cell("results.full_precision.perplexity", Unit::plain),
                    cell("results.nearest.perplexity", Unit::plain), cell("results.quantised.perplexity", Unit::plain),
                    cell("results.nearest.kl", Unit::plain), cell("results.quantised.kl", Unit::plain),
                    cell("results.quantised.top1", Unit::ratio), cell("size.bits_per_weight", Unit::plain),
                    cell("size.bytes", Unit::bytes), number_html(total_seconds(run.report), Unit::seconds),
                    cell("peak_memory_bytes.reconstruct", Unit::bytes)});
  }
  return table_html({"Run", "Model and scheme", "#Perplexity: full", "#nearest", "#quantised", "#KL: nearest",
                     "#quantised", "#Same top token", "#Bits a weight", "#Weight files", "#Time", "#Peak memory"},
                    rows);
}

// Mean over the weights of a block, of every block that is done.
std::vector<Point> weight_errors(const RunRecord& run) {
  std::map<double, double> errors;
  for (const Json& window : run.windows)
    for (const Json& block : list_at(window, "finished")) {
      double sum = 0, weights = 0;
      for (const Json& linear : list_at(block, "linears")) {
        sum += number_at(linear, "error") * number_at(linear, "weights");
        weights += number_at(linear, "weights");
      }
      if (const double layer = number_at(block, "layer"); weights > 0 && layer >= 0) errors[layer] = sum / weights;
    }
  std::vector<Point> points;
  for (const auto& [layer, error] : errors) points.push_back({layer, error});
  return points;
}

std::string charts(Runs runs) {
  const Axis block{"block", Scale::index, Unit::count};
  LineChart windows{"Distance on held-out samples after each window",
                    {"window", Scale::index, Unit::count},
                    {"distance", Scale::log},
                    {}};
  LineChart kl{"KL divergence of the hidden states after each block",
               block,
               {"nats a token, over the hidden dimension", Scale::log},
               {}};
  LineChart error{
      "Relative error of the hidden states after each block", block, {"|x_q − x| / |x|", Scale::size, Unit::ratio}, {}};
  LineChart weights{"Weight error, mean of a block", block, {"|ŵ − w| / |w|", Scale::size, Unit::ratio}, {}};
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const RunRecord& run = runs[r];
    Series distance{run.name, int(r), {}};
    for (std::size_t w = 0; w < run.windows.size(); ++w)
      distance.points.push_back({double(w), number_at(run.windows[w], "end_distance")});
    windows.series.push_back(std::move(distance));
    kl.series.push_back({run.name, int(r), points_of(list_at(run.report, "after_block.quantised"), "kl")});
    error.series.push_back({run.name, int(r), points_of(list_at(run.report, "after_block.quantised"), "error")});
    weights.series.push_back({run.name, int(r), weight_errors(run)});
  }
  return chart_grid(draw(windows) + draw(kl) + draw(error) + draw(weights));
}

void flatten(const Json& object, const std::string& prefix, std::vector<std::string>& names,
             std::map<std::string, std::string>& values) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) {
      flatten(value, prefix + key + ".", names, values);
      continue;
    }
    const std::string name = prefix + key;
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    values[name] =
        value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
}

// Keys of the config, and of what the runs were computed with, in which not all agree.
std::string differences(Runs runs) {
  std::vector<std::string> names, head{"Key"};
  std::vector<std::map<std::string, std::string>> values(runs.size());
  for (std::size_t r = 0; r < runs.size(); ++r) {
    head.push_back(escaped(runs[r].name));
    for (const char* part : {"config", "versions"})
      if (const Json& object = value_at(runs[r].report, part); object.is_object())
        flatten(object, "", names, values[r]);
  }
  std::vector<std::vector<std::string>> rows;
  for (const std::string& name : names) {
    bool is_equal = true;
    std::vector<std::string> row{escaped(name)};
    for (const std::map<std::string, std::string>& of_run : values) {
      const auto value = of_run.find(name);
      const auto first = std::as_const(values[0]).find(name);
      const std::string text = value == of_run.end() ? "–" : value->second;
      is_equal &= text == (first == values[0].end() ? "–" : first->second);
      row.push_back(escaped(text));
    }
    if (!is_equal) rows.push_back(std::move(row));
  }
  return element("h2", "What differs") + table_html(head, rows);
}

std::string texts(Runs runs) {
  std::string items;
  for (const RunRecord& run : runs)
    for (const Json& text : list_at(run.report, "texts"))
      if (text.contains("after"))
        items += element("div", element("span", escaped(run.name), "class=\"of\"") +
                                    element("blockquote", element("b", escaped(text_at(text, "prompt"))) +
                                                              escaped(text_at(text, "after")))) +
                 "\n";
  return items.empty() ? std::string() : element("h2", "The same prompts") + element("div", items, "class=\"texts\"");
}

}  // namespace

std::string comparison_page(Runs runs) {
  std::string names;
  for (const RunRecord& run : runs) names += (names.empty() ? "" : ", ") + run.name;
  return page_frame(concat(runs.size(), " runs side by side"), names,
                    element("h2", "Result") + result_table(runs) + element("h2", "Loss and layers") + charts(runs) +
                        differences(runs) + texts(runs));
}

}  // namespace cbq
