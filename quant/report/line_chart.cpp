#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "quant/report/svg.h"

namespace cbq {
namespace {

constexpr double kLeft = 54, kRight = kChartWidth - 10, kTop = 24, kBottom = 196, kHeight = 234;
constexpr std::size_t kManyPoints = 40;  // of a colour: more are drawn smaller

class Plot {
 public:
  explicit Plot(const LineChart& chart) : chart_(chart), x_(range_x()), y_(range_y()) {}

  std::string draw() const {
    std::string drawing = axes();
    for (const Series& series : chart_.series) drawing += concat("\n", draw(series));
    return figure(chart_.title, legend(), kHeight, drawing);
  }

 private:
  Range range_x() const {
    std::vector<double> values;
    for (const Series& series : chart_.series)
      for (const Point& point : series.points) values.push_back(point.x);
    Range range = range_of(chart_.x, values, 7);
    if (chart_.x.scale == Scale::index || values.empty()) return range;
    // Along x the line fills the chart; ticks outside go.
    const auto [first, last] = std::ranges::minmax(values);
    if (!(last > first)) return range;
    range.low = first, range.high = last;
    std::erase_if(range.ticks, [&](double tick) { return !(tick >= range.low && tick <= range.high); });
    return range;
  }
  Range range_y() const {
    std::vector<double> values;
    for (const Series& series : chart_.series)
      for (const Point& point : series.points) values.push_back(point.y);
    return range_of(chart_.y, values, 5);
  }
  double place_x(double x) const { return kLeft + x_.position(x) * (kRight - kLeft); }
  double place_y(double y) const { return kBottom - y_.position(y) * (kBottom - kTop); }

  std::string axes() const {
    std::string text = svg_text(0, 10, "start", chart_.y.title, "axis");
    for (const double tick : y_.ticks)
      text += svg_line(kLeft, place_y(tick), kRight, place_y(tick), "grid") +
              svg_text(kLeft - 6, place_y(tick) + 4, "end", number_text(tick, chart_.y.unit, 2));
    for (const double tick : x_.ticks)
      text += svg_line(place_x(tick), kBottom, place_x(tick), kBottom + 4, "tick") +
              svg_text(place_x(tick), kBottom + 16, place_x(tick) > kRight - 12 ? "end" : "middle",
                       number_text(tick, chart_.x.unit, 3));
    text += svg_line(kLeft, kBottom, kRight, kBottom, "tick");
    return text + svg_text(kRight, kHeight - 6, "end", chart_.x.title, "axis");
  }

  std::size_t points_of_colour(int colour) const {
    std::size_t count = 0;
    for (const Series& series : chart_.series)
      if (series.colour == colour) count += series.points.size();
    return count;
  }

  // Lines between neighbours that are there, and dots with their numbers.
  std::string draw(const Series& series) const {
    std::string path, dots;
    const bool is_small = points_of_colour(series.colour) > kManyPoints;
    bool is_open = false;
    for (const Point& point : series.points) {
      const double x = place_x(point.x), y = std::isfinite(point.y) ? place_y(point.y) : std::nan("");
      if (!std::isfinite(x) || !std::isfinite(y)) {
        is_open = false;
        continue;
      }
      const bool is_step = is_open && series.mark == Mark::steps;
      path += is_step ? concat("V", coordinate(y), "H", coordinate(x))
                      : concat(is_open ? "L" : "M", coordinate(x), " ", coordinate(y));
      is_open = true;
      if (series.mark == Mark::level) continue;
      const std::string note = concat(series.name, ", ", chart_.x.title, " ", number_text(point.x, chart_.x.unit), ": ",
                                      number_text(point.y, chart_.y.unit));
      dots +=
          element("circle", svg_title(note),
                  concat("cx=\"", coordinate(x), "\" cy=\"", coordinate(y), "\" r=\"", is_small ? "1.4" : "2.6", "\""));
    }
    if (path.empty()) return {};
    const std::string kind = series.mark == Mark::level ? "level" : "line";
    const std::string line = element("path", series.mark == Mark::level ? svg_title(level_note(series)) : "",
                                     concat("class=\"", kind, "\" d=\"", path, "\""));
    return element("g", line + dots, colour_style(series.colour));
  }

  std::string level_note(const Series& series) const {
    return concat(series.name, ": ", number_text(series.points.front().y, chart_.y.unit));
  }

  std::vector<LegendEntry> legend() const {
    std::vector<LegendEntry> entries;
    for (const Series& series : chart_.series) {
      const auto is_same = [&](const LegendEntry& entry) { return entry.name == series.name; };
      if (!series.points.empty() && std::none_of(entries.begin(), entries.end(), is_same))
        entries.push_back({series.name, series.colour, series.mark == Mark::level ? "level" : "line"});
    }
    return entries;
  }

  const LineChart& chart_;
  Range x_, y_;
};

}  // namespace

std::string draw(const LineChart& chart) {
  return Plot(chart).draw();
}

}  // namespace cbq
