// Every op on the GPU against the CPU in float64, on inputs rounded to the type, forward and backward; twice with the
// same bits. Fresh memory holds NaN, so that an element that a kernel forgets shows.
#include "tests/check.h"
#include "tests/gpu.h"

namespace cbq::test {
namespace {

constexpr std::int64_t kModelTokens = 33;

std::vector<OpCase> parity_cases() {
  std::vector<OpCase> cases = all_cases();
  for (OpCase& c : model_cases(kModelTokens)) cases.push_back(std::move(c));
  return cases;
}

// The inputs as they are after a round trip through their type.
std::vector<Values> as_stored(const OpCase& c, DType dtype) {
  std::vector<Values> values = c.sample();
  for (std::size_t i = 0; i < values.size(); ++i)
    if (c.inputs[i].role != Role::index)
      values[i] = to_host<double>(host(), to_tensor(host(), c.inputs[i], dtype, values[i]));
  return values;
}

class Parity : public testing::TestWithParam<std::tuple<OpCase, DType>> {};

TEST_P(Parity, AgreesWithTheCpu) {
  const auto& [c, dtype] = GetParam();
  const std::vector<Values> inputs = as_stored(c, dtype);
  const Result first = evaluate(gpu(), c, dtype, inputs), second = evaluate(gpu(), c, dtype, inputs);
  EXPECT_EQ(first.y, second.y) << "two runs differ";
  EXPECT_EQ(first.gradients, second.gradients) << "two runs differ";
  const Result expected = evaluate(host(), c, DType::f64, inputs);
  const double tol = tolerance(dtype) * (dtype == DType::f32 ? c.f32_tolerance_factor : 1);
  expect_close(first.y, expected.y, tol, "value");
  ASSERT_EQ(first.gradients.size(), expected.gradients.size());
  for (std::size_t i = 0; i < expected.gradients.size(); ++i)
    expect_close(first.gradients[i], expected.gradients[i], tol, concat("gradient of input ", i));
}

std::string parity_name(const testing::TestParamInfo<std::tuple<OpCase, DType>>& test) {
  return concat(case_label(std::get<OpCase>(test.param)), "_", std::get<DType>(test.param));
}

INSTANTIATE_TEST_SUITE_P(Cases, Parity,
                         testing::Combine(testing::ValuesIn(parity_cases()), testing::Values(DType::f32, DType::bf16)),
                         parity_name);

}  // namespace
}  // namespace cbq::test
