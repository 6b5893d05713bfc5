#include "quant/report/axis.h"

#include <algorithm>
#include <cmath>

namespace cbq {
namespace {

// The smallest of 1, 2 and 5 times a power of ten that is at least x.
double round_step(double x) {
  const double power = std::pow(10, std::floor(std::log10(x)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= x * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

// first .. last times step; of numbers so large that one more makes no difference, as many as a chart has room for.
std::vector<double> multiples(double first, double last, double step) {
  constexpr int kMost = 100;
  std::vector<double> numbers;
  for (int i = 0; i < kMost && first + i <= last; ++i) numbers.push_back((first + i) * step);
  return numbers;
}

Range linear(double low, double high, int most, Scale scale) {
  if (scale == Scale::index) {
    const double step = std::max(1.0, round_step(std::max(1.0, high - low) / most));
    Range range{low - 0.5, high + 0.5, {}, scale};
    range.ticks = multiples(std::ceil(low / step), std::floor(high / step), step);
    return range;
  }
  if (!(high > low)) high = low + (low != 0 ? std::abs(low) : 1);
  const double step = round_step((high - low) / most);
  const double first = std::floor(low / step * (1 + 1e-12)), last = std::ceil(high / step * (1 - 1e-12));
  return {first * step, last * step, multiples(first, last, step), Scale::linear};
}

// Powers of ten; with 2 and 5 between them where the range is short.
Range logarithmic(double low, double high, int most) {
  const double decades = std::log10(high) - std::log10(low);  // the ratio itself may be too large a number
  const int every = std::max(1, int(std::ceil(decades / most)));
  const bool has_parts = decades < most / 3.0;
  std::vector<double> candidates;
  for (int power = int(std::floor(std::log10(low))) - 1; power <= int(std::ceil(std::log10(high))) + 1; ++power)
    for (const double factor : {1.0, 2.0, 5.0}) {
      if ((factor > 1 && !has_parts) || power % every != 0) continue;
      candidates.push_back(factor * std::pow(10, power));
    }
  auto first = std::upper_bound(candidates.begin(), candidates.end(), low * (1 + 1e-9));
  auto last = std::lower_bound(candidates.begin(), candidates.end(), high * (1 - 1e-9));
  if (first != candidates.begin()) --first;
  if (last == candidates.end()) --last;
  if (first >= last) last = first + 1 < candidates.end() ? first + 1 : first;
  return {*first, *last, {first, last + 1}, Scale::log};
}

}  // namespace

double Range::position(double value) const {
  if (scale == Scale::log && !(value > 0)) return std::nan("");
  if (scale == Scale::log) return (std::log10(value) - std::log10(low)) / (std::log10(high) - std::log10(low));
  return (value - low) / (high - low);
}

Range range_of(const Axis& axis, const std::vector<double>& values, int most) {
  double low = INFINITY, high = -INFINITY;
  for (const double value : values) {
    if (!std::isfinite(value) || (axis.scale == Scale::log && !(value > 0))) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  if (axis.scale == Scale::size) low = std::min(low, 0.0), high = std::max(high, 0.0);
  if (!(low <= high)) low = axis.scale == Scale::log ? 1 : 0, high = axis.scale == Scale::log ? 10 : 1;
  return axis.scale == Scale::log ? logarithmic(low, high, most) : linear(low, high, most, axis.scale);
}

}  // namespace cbq
