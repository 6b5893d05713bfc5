// Pieces of SVG that the charts share.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quant/report/chart.h"

namespace cbq {

constexpr double kChartWidth = 440;

// A coordinate: one digit after the point.
std::string coordinate(double x);
// style="--c:var(--c2)": what marks and swatches take their colour from.
std::string colour_style(int colour);
// <text class= x= y=>; anchor start, middle or end.
std::string svg_text(double x, double y, std::string_view anchor, std::string_view content, std::string_view kind = {});
std::string svg_line(double x1, double y1, double x2, double y2, std::string_view kind);
std::string svg_title(std::string_view text);

struct LegendEntry {
  std::string name;
  int colour;
  std::string shape;  // class of the swatch: "line", "level", "box" or "mark"
};
// The figure around a drawing of kChartWidth x height.
std::string figure(const std::string& title, const std::vector<LegendEntry>& legend, double height,
                   const std::string& drawing);

}  // namespace cbq
