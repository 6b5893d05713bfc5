#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "quant/report/svg.h"

namespace cbq {
namespace {

constexpr double kLeft = 74, kRight = kChartWidth - 4, kTop = 4, kRowHeight = 22, kGap = 1.5;
constexpr double kRoomForNumber = 38;   // width of a cell that its number fits into
constexpr double kFaintest = 0.08;      // opacity of the lowest value
constexpr double kInvertedFrom = 0.62;  // opacity from which numbers are set in the page's colour
constexpr int kScaleSteps = 5;          // boxes of the legend

std::string cell(double x, double y, double width, double height, double opacity, const std::string& inside) {
  return element(
      "rect", inside,
      concat("class=\"cell\" x=\"", coordinate(x), "\" y=\"", coordinate(y), "\" width=\"", coordinate(width),
             "\" height=\"", coordinate(height), "\" fill-opacity=\"", number_text(opacity, Unit::plain, 2), "\""));
}

}  // namespace

std::string draw(const HeatMap& map) {
  std::size_t columns = 1;
  double low = INFINITY, high = -INFINITY;
  for (const HeatMap::Row& row : map.rows) {
    columns = std::max(columns, row.values.size());
    for (const double value : row.values)
      if (std::isfinite(value)) low = std::min(low, value), high = std::max(high, value);
  }
  if (std::isfinite(map.low) && std::isfinite(map.high)) low = map.low, high = map.high;
  const auto opacity = [&](double value) {
    return high > low ? kFaintest + (1 - kFaintest) * (value - low) / (high - low) : kFaintest;
  };
  const double width = (kRight - kLeft) / double(columns), gap = std::min(kGap, width / 4);
  const double bottom = kTop + kRowHeight * double(map.rows.size());
  std::string drawing;
  for (std::size_t r = 0; r < map.rows.size(); ++r) {
    const HeatMap::Row& row = map.rows[r];
    const double y = kTop + kRowHeight * double(r);
    drawing += concat("\n", svg_text(kLeft - 8, y + kRowHeight / 2 + 3.5, "end", row.name));
    for (std::size_t c = 0; c < row.values.size(); ++c) {
      if (!std::isfinite(row.values[c])) continue;
      const std::string number = number_text(row.values[c], map.unit, 3);
      const double x = kLeft + width * double(c), shade = opacity(row.values[c]);
      drawing += cell(x, y, width - gap, kRowHeight - kGap, shade,
                      svg_title(concat(row.name, ", ", map.columns, " ", c, ": ", number)));
      if (width >= kRoomForNumber)
        drawing += svg_text(x + width / 2, y + kRowHeight / 2 + 3.5, "middle", number,
                            shade >= kInvertedFrom ? "number inverted" : "number");
    }
  }
  std::vector<double> positions(columns);
  for (std::size_t c = 0; c < columns; ++c) positions[c] = double(c);
  for (const double tick : range_of({.title = {}, .scale = Scale::index}, positions, 10).ticks)
    drawing += svg_text(kLeft + width * (tick + 0.5), bottom + 13, "middle", number_text(tick, Unit::count));
  drawing += svg_text(kRight, bottom + 29, "end", map.columns, "axis");
  if (std::isfinite(low)) {
    drawing += svg_text(kLeft, bottom + 29, "start", number_text(low, map.unit, 3));
    for (int i = 0; i < kScaleSteps; ++i)
      drawing +=
          cell(kLeft + 52 + 14 * i, bottom + 20, 14, 10, kFaintest + (1 - kFaintest) * i / (kScaleSteps - 1), "");
    drawing += svg_text(kLeft + 58 + 14 * kScaleSteps, bottom + 29, "start", number_text(high, map.unit, 3));
  }
  return figure(map.title, {}, bottom + 34, element("g", drawing, colour_style(0)));
}

}  // namespace cbq
