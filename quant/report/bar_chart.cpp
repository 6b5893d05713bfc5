#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "quant/report/svg.h"

namespace cbq {
namespace {

constexpr double kLeft = 84, kRight = kChartWidth - 70, kTop = 4, kRowHeight = 26, kBarHeight = 14;

}  // namespace

std::string draw(const BarChart& chart) {
  std::vector<double> values;
  bool has_marks = false;
  for (const BarChart::Bar& bar : chart.bars) {
    values.insert(values.end(), {bar.value, bar.mark});
    has_marks |= std::isfinite(bar.mark);
  }
  Axis axis = chart.axis;
  axis.scale = Scale::size;
  const Range range = range_of(axis, values, 5);
  const auto place = [&](double value) { return kLeft + range.position(value) * (kRight - kLeft); };
  const double bottom = kTop + kRowHeight * double(chart.bars.size());
  std::string drawing;
  for (const double tick : range.ticks)
    drawing += svg_line(place(tick), kTop, place(tick), bottom, "grid") +
               svg_text(place(tick), bottom + 14, "middle", number_text(tick, axis.unit, 2));
  for (std::size_t i = 0; i < chart.bars.size(); ++i) {
    const BarChart::Bar& bar = chart.bars[i];
    const double y = kTop + kRowHeight * double(i) + (kRowHeight - kBarHeight) / 2;
    drawing += concat("\n", svg_text(kLeft - 8, y + kBarHeight / 2 + 4, "end", bar.name));
    if (!std::isfinite(bar.value)) continue;
    const std::string number = number_text(bar.value, axis.unit);
    drawing += element(
        "rect", svg_title(concat(bar.name, ": ", number)),
        concat("class=\"bar\" x=\"", coordinate(kLeft), "\" y=\"", coordinate(y), "\" width=\"",
               coordinate(std::max(1.0, place(bar.value) - kLeft)), "\" height=\"", coordinate(kBarHeight), "\""));
    double end = place(bar.value);
    if (std::isfinite(bar.mark)) {
      const double x = place(bar.mark);
      const std::string note = concat(bar.name, ", ", chart.mark_name, ": ", number_text(bar.mark, axis.unit));
      drawing += element("g", svg_title(note) + svg_line(x, y - 4, x, y + kBarHeight + 4, "mark"));
      end = std::max(end, x);
    }
    drawing += svg_text(end + 6, y + kBarHeight / 2 + 4, "start", number);
  }
  drawing += svg_text(kRight, bottom + 31, "end", axis.title, "axis");
  std::vector<LegendEntry> legend = {{chart.bar_name, 0, "box"}};
  if (has_marks) legend.push_back({chart.mark_name, kMuted, "mark"});
  return figure(chart.title, legend, bottom + 36, element("g", drawing, colour_style(0)));
}

}  // namespace cbq
