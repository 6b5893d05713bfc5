#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "quant/report/sections.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

// "q_proj" of "self_attn.q_proj".
std::string last_name(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

// The finished blocks of all windows by their number; of a block that was done twice, the last.
std::map<std::int64_t, const Json*> finished_blocks(const RunRecord& run) {
  std::map<std::int64_t, const Json*> blocks;
  for (const Json& window : run.windows)
    for (const Json& block : list_at(window, "finished"))
      if (const double layer = number_at(block, "layer"); layer >= 0 && layer < 1e4)
        blocks[std::int64_t(layer)] = &block;
  return blocks;
}

HeatMap heat_map(const std::map<std::int64_t, const Json*>& blocks, std::string title, Unit unit,
                 std::string_view key) {
  HeatMap map;
  map.title = std::move(title);
  map.columns = "block";
  map.unit = unit;
  const auto columns = std::size_t(blocks.rbegin()->first) + 1;
  for (const auto& [layer, block] : blocks)
    for (const Json& linear : list_at(*block, "linears")) {
      const std::string name = last_name(text_at(linear, "name"));
      auto row = std::ranges::find_if(map.rows, [&](const HeatMap::Row& r) { return r.name == name; });
      if (row == map.rows.end()) row = map.rows.insert(row, {name, std::vector<double>(columns, std::nan(""))});
      row->values[std::size_t(layer)] = number_at(linear, key);
    }
  return map;
}

void share_shades(HeatMap& a, HeatMap& b) {
  double low = INFINITY, high = -INFINITY;
  for (const HeatMap* map : {&a, &b})
    for (const HeatMap::Row& row : map->rows)
      for (const double value : row.values)
        if (std::isfinite(value)) low = std::min(low, value), high = std::max(high, value);
  for (HeatMap* map : {&a, &b}) map->low = low, map->high = high;
}

std::string all_layers(const std::map<std::int64_t, const Json*>& blocks) {
  std::vector<std::vector<std::string>> rows;
  for (const auto& [layer, block] : blocks)
    for (const Json& linear : list_at(*block, "linears")) {
      const auto cell = [&](const char* key, Unit unit) { return number_html(number_at(linear, key), unit, 3); };
      rows.push_back({concat(layer, " ", escaped(text_at(linear, "name"))), cell("bits", Unit::count),
                      cell("error", Unit::ratio), cell("nearest_error", Unit::ratio), cell("moved_share", Unit::ratio),
                      cell("clip_lowest", Unit::plain), cell("clip_median", Unit::plain),
                      cell("clip_highest", Unit::plain)});
    }
  return element("details", element("summary", "Every layer in numbers") +
                                table_html({"Block and layer", "#Bits", "#Weight error", "#of nearest", "#Moved",
                                            "#Clip: lowest", "#median", "#highest"},
                                           rows));
}

}  // namespace

std::string layer_section(const RunRecord& run) {
  const auto blocks = finished_blocks(run);
  if (blocks.empty()) return {};
  HeatMap error = heat_map(blocks, "Weight error, |ŵ − w| / |w|", Unit::ratio, "error");
  HeatMap nearest = heat_map(blocks, "The same of nearest on the final grid", Unit::ratio, "nearest_error");
  if (error.rows.empty()) return {};
  share_shades(error, nearest);
  const std::string figures =
      draw(error) + draw(nearest) +
      draw(heat_map(blocks, "Weights moved away from nearest", Unit::ratio, "moved_share")) +
      draw(heat_map(blocks, "Clip ratio, median: step size over that of the range", Unit::plain, "clip_median"));
  return element("h2", "Layers") +
         element(
             "p",
             "Reconstruction makes the output of blocks agree, not the weights: a weight error above that of nearest "
             "is the "
             "price of a smaller error behind the block. A clip ratio below 1 cuts off the ends of a group's range.",
             "class=\"note\"") +
         chart_grid(figures) + all_layers(blocks);
}

}  // namespace cbq
