// The straight-through ops: values and gradients against the smooth function that they stand for, with rounding
// residuals and clip decisions frozen at the point (tests/cases.h). The function is computed here on the host, not by a
// kernel.
#include <algorithm>

#include "tests/check.h"

namespace cbq::test {
namespace {

std::vector<OpCase> straight_through_cases() {
  std::vector<OpCase> cases = all_cases();
  std::erase_if(cases, [](const OpCase& c) { return !c.surrogate; });
  return cases;
}

class Surrogate : public testing::TestWithParam<OpCase> {};

TEST_P(Surrogate, HasTheValueAndTheGradient) {
  const auto ctx = open_cpu(1);  // determinism.cpp compares threads
  const OpCase& c = GetParam();
  const std::vector<Values> point = c.sample();
  const HostFunction f = c.surrogate(point);
  const Result result = evaluate(*ctx, c, DType::f64, point);
  expect_close(result.y, f(point), tolerance(DType::f64), "value");
  check_gradients(c, f, point, result);
}
INSTANTIATE_TEST_SUITE_P(Cases, Surrogate, testing::ValuesIn(straight_through_cases()), case_name);

// Samples without clipping, or with nothing else, would leave half of each formula untested.
TEST(Surrogate, SamplesAreClippedInPart) {
  const auto ctx = open_cpu(1);  // determinism.cpp compares threads
  for (const OpCase& c : straight_through_cases()) {
    const bool hides_clips = c.name.find("norm_quant") != std::string::npos;  // dx of a norm is nowhere 0
    const bool can_clip = c.name.find("quantise_weight") == 0 || c.name.find("_83_of_100") != std::string::npos;
    if (!can_clip || hides_clips || c.inputs[0].shape.count() < 1000) continue;
    const Result result = evaluate(*ctx, c, DType::f64, c.sample());
    const auto clipped = std::ranges::count(result.gradients[0], 0.0);
    EXPECT_GT(clipped, 0) << c.name;
    EXPECT_LT(clipped, c.inputs[0].shape.count() * 9 / 10) << c.name;
  }
}

}  // namespace
}  // namespace cbq::test
