#include "quant/report/svg.h"

#include <array>
#include <cstdio>

#include "core/error.h"

namespace cbq {

std::string coordinate(double x) {
  std::array<char, 400> text{};
  std::snprintf(text.data(), text.size(), "%.1f", x);
  return text.data();
}

std::string colour_style(int colour) {
  if (colour == kMuted) return "style=\"--c:var(--muted)\"";
  return concat("style=\"--c:var(--c", colour % kColours, ")\"");
}

std::string svg_text(double x, double y, std::string_view anchor, std::string_view content, std::string_view kind) {
  const std::string attributes =
      concat("x=\"", coordinate(x), "\" y=\"", coordinate(y), "\" text-anchor=\"", anchor, "\"");
  return element("text", escaped(content), kind.empty() ? attributes : concat("class=\"", kind, "\" ", attributes));
}

std::string svg_line(double x1, double y1, double x2, double y2, std::string_view kind) {
  return element("line", "",
                 concat("class=\"", kind, "\" x1=\"", coordinate(x1), "\" y1=\"", coordinate(y1), "\" x2=\"",
                        coordinate(x2), "\" y2=\"", coordinate(y2), "\""));
}

std::string svg_title(std::string_view text) {
  return element("title", escaped(text));
}

std::string figure(const std::string& title, const std::vector<LegendEntry>& legend, double height,
                   const std::string& drawing) {
  std::string entries;
  for (const LegendEntry& entry : legend)
    entries += element("span", element("i", "", concat("class=\"", entry.shape, "\"")) + escaped(entry.name),
                       colour_style(entry.colour));
  const std::string label = escaped(title);
  const std::string svg = element("svg", drawing,
                                  concat("viewBox=\"0 0 ", coordinate(kChartWidth), " ", coordinate(height),
                                         "\" role=\"img\" aria-label=\"", label, "\""));
  const std::string below = entries.empty() ? "" : element("div", entries, "class=\"legend\"");
  return concat(element("figure", concat(element("figcaption", label), "\n", svg, "\n", below)), "\n");
}

}  // namespace cbq
