// Charts as inline SVG in a <figure> with a legend: no script, colours from the page's style sheet, a tooltip per mark.
// A chart is 440 units wide, so that its text keeps a readable size on a phone.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "quant/report/axis.h"

namespace cbq {

// Colours 0 .. 7 of the style sheet (`--c0` ...), which differ in light and dark; `muted` for what others are held
// against.
constexpr int kColours = 8, kMuted = -1;

struct Point {
  double x, y;  // y that is not finite, or not above 0 on a logarithmic axis: a gap
};
// line: with a dot at each point. steps: y holds from the x before it to its own. level: dashed, for a limit or a plan.
enum class Mark { line, steps, level };
struct Series {
  std::string name;
  int colour = 0;
  std::vector<Point> points;
  Mark mark = Mark::line;
};
struct LineChart {
  std::string title;
  Axis x, y;
  std::vector<Series> series;  // those of one name share an entry of the legend
};
std::string draw(const LineChart& chart);

// Rows of one kind over columns counted from 0; darker is more. NaN: an empty cell.
struct HeatMap {
  std::string title, columns;  // what the columns are
  Unit unit = Unit::plain;
  struct Row {
    std::string name;
    std::vector<double> values;
  };
  std::vector<Row> rows;
  double low = std::numeric_limits<double>::quiet_NaN(), high = low;  // of the shades; NaN: those of the values
};
std::string draw(const HeatMap& map);

// Lengths beside each other, each perhaps with a mark to hold it against.
struct BarChart {
  std::string title;
  Axis axis;
  std::string bar_name, mark_name;  // for the legend
  struct Bar {
    std::string name;
    double value, mark;  // mark NaN: none
  };
  std::vector<Bar> bars;
};
std::string draw(const BarChart& chart);

}  // namespace cbq
