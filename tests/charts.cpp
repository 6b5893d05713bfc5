// The charts of the report: points stand where their numbers say, axes carry round numbers, numbers are readable.
#include <gtest/gtest.h>

#include <cmath>

#include "quant/report/chart.h"

namespace cbq {
namespace {

TEST(Chart, PutsPointsWhereTheirNumbersAre) {
  const LineChart chart{
      "t", {"x", Scale::linear, Unit::plain}, {"y", Scale::size, Unit::plain}, {{"s", 2, {{0, 0}, {5, NAN}, {10, 4}}}}};
  const std::string svg = draw(chart);
  // The plot is 54 .. 430 by 196 .. 24; the gap begins a new line.
  EXPECT_NE(svg.find("d=\"M54.0 196.0M430.0 24.0\""), std::string::npos) << svg;
  EXPECT_NE(svg.find("<circle cx=\"430.0\" cy=\"24.0\" r=\"2.6\"><title>s, x 10.00: 4.000</title>"), std::string::npos)
      << svg;
  EXPECT_NE(svg.find("--c:var(--c2)"), std::string::npos);
}

TEST(Chart, DrawsNothingWithoutPoints) {
  for (const Scale scale : {Scale::linear, Scale::size, Scale::log, Scale::index})
    for (const std::vector<Point>& points :
         {std::vector<Point>{}, {{0, NAN}}, {{0, -1}}, {{3, 0}}, {{3, 1e-300}, {4, 1e300}}}) {
      const std::string svg = draw(LineChart{"t", {"x", Scale::index}, {"y", scale}, {{"s", 0, points}}});
      EXPECT_EQ(svg.find("nan"), std::string::npos) << int(scale);
      EXPECT_EQ(svg.find("inf"), std::string::npos) << int(scale);
    }
  EXPECT_EQ(draw(HeatMap{"t", "c", Unit::plain, {}}).find("nan"), std::string::npos);
  EXPECT_EQ(draw(BarChart{"t", {"x"}, "b", "m", {{"a", NAN, NAN}}}).find("nan"), std::string::npos);
}

TEST(Axis, HasRoundNumbersAroundTheValues) {
  const auto ticks = [](Scale scale, std::vector<double> values, int most = 5) {
    return range_of({"", scale}, values, most);
  };
  const Range linear = ticks(Scale::linear, {1.3, 9.2});
  EXPECT_EQ(linear.ticks, (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(linear.position(5), 0.5);
  EXPECT_EQ(ticks(Scale::size, {30, 80}).low, 0);
  const Range log = ticks(Scale::log, {0.03, 700});
  EXPECT_EQ(log.low, 0.01);
  EXPECT_EQ(log.high, 1000);
  EXPECT_NEAR(log.position(1), 0.4, 1e-12);
  EXPECT_TRUE(std::isnan(log.position(0)));
  const Range short_log = ticks(Scale::log, {0.6, 1.3});
  EXPECT_EQ(short_log.low, 0.5);
  EXPECT_EQ(short_log.high, 2);
  const Range index = ticks(Scale::index, {0, 79}, 8);
  EXPECT_EQ(index.ticks, (std::vector<double>{0, 10, 20, 30, 40, 50, 60, 70}));
  EXPECT_EQ(index.low, -0.5);
  EXPECT_EQ(index.high, 79.5);
}

TEST(NumberText, IsReadable) {
  EXPECT_EQ(number_text(0.06846320094391091, Unit::plain), "0.06846");
  EXPECT_EQ(number_text(1.5420109058612468, Unit::plain), "1.542");
  EXPECT_EQ(number_text(412.699, Unit::plain), "412.7");
  EXPECT_EQ(number_text(99999.4, Unit::plain), "99999");
  EXPECT_EQ(number_text(0, Unit::plain), "0");
  EXPECT_EQ(number_text(1579264, Unit::count), "1\u202F579\u202F264");
  EXPECT_EQ(number_text(8192, Unit::count), "8192");
  EXPECT_EQ(number_text(1.5e-9, Unit::plain), "1.500e-09");
  EXPECT_EQ(number_text(0.8939568014705882, Unit::ratio), "89.4 %");
  EXPECT_EQ(number_text(0.0123, Unit::ratio), "1.23 %");
  EXPECT_EQ(number_text(0.2, Unit::ratio, 2), "20 %");
  EXPECT_EQ(number_text(0.05, Unit::seconds), "0.050 s");
  EXPECT_EQ(number_text(200, Unit::seconds), "3 min 20 s");
  EXPECT_EQ(number_text(565696, Unit::bytes), "566 kB");
  EXPECT_EQ(number_text(NAN, Unit::plain), "–");
  EXPECT_EQ(number_html(0.1, Unit::plain), "<data value=\"0.1\">0.1000</data>");
}

}  // namespace
}  // namespace cbq
