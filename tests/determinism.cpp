// Every op gives the same bits twice and with any number of threads, and in f32 stays close to f64.
#include "tests/check.h"

namespace cbq::test {
namespace {

void expect_same_bits(const Result& a, const Result& b, const char* what) {
  EXPECT_EQ(a.y, b.y) << what;
  EXPECT_EQ(a.gradients, b.gradients) << what;
}

class Determinism : public testing::TestWithParam<OpCase> {};

TEST_P(Determinism, SameBitsTwiceAndForAnyThreads) {
  const OpCase& c = GetParam();
  const std::vector<Values> point = c.sample();
  const auto one = open_cpu(1);
  const Result first = evaluate(*one, c, DType::f32, point);
  expect_same_bits(first, evaluate(*one, c, DType::f32, point), "second run");
  const auto two = open_cpu(2);
  expect_same_bits(first, evaluate(*two, c, DType::f32, point), "two threads");
  const auto three = open_cpu(3);
  expect_same_bits(first, evaluate(*three, c, DType::f32, point), "three threads");
}

TEST_P(Determinism, SingleIsCloseToDouble) {
  const auto ctx = open_cpu();
  const OpCase& c = GetParam();
  const std::vector<Values> point = c.sample();
  const Result actual = evaluate(*ctx, c, DType::f32, point), expected = evaluate(*ctx, c, DType::f64, point);
  const double tol = tolerance(DType::f32) * c.f32_tolerance_factor;
  expect_close(actual.y, expected.y, tol, "value");
  ASSERT_EQ(actual.gradients.size(), expected.gradients.size());
  for (std::size_t i = 0; i < expected.gradients.size(); ++i)
    expect_close(actual.gradients[i], expected.gradients[i], tol, concat("gradient of input ", i));
}

INSTANTIATE_TEST_SUITE_P(Cases, Determinism, testing::ValuesIn(all_cases()), case_name);

}  // namespace
}  // namespace cbq::test
