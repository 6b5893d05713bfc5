// Axes of charts: their range, and round numbers along them.
#pragma once

#include <string>
#include <vector>

#include "quant/report/html.h"

namespace cbq {

// linear shows differences; size begins at zero; index counts in whole numbers, with half a step of room at both ends.
enum class Scale { linear, size, log, index };

struct Axis {
  std::string title;  // with its unit
  Scale scale = Scale::linear;
  Unit unit = Unit::plain;
};

// Part of an axis that is drawn, and the numbers written along it, ascending and inside.
struct Range {
  double low, high;
  std::vector<double> ticks;
  Scale scale;
  // 0 at `low`, 1 at `high`; NaN for what a logarithm does not take.
  double position(double value) const;
};

// The range of all values, widened to round numbers, with about `most` ticks at the most. Values that are not finite,
// on a logarithmic axis those not above 0, do not count; without any the range is 0 to 1 (log: 1 to 10).
Range range_of(const Axis& axis, const std::vector<double>& values, int most);

}  // namespace cbq
