// The smooth ops, differentiated: analytic gradients against central differences in f64.
#include <gtest/gtest-spi.h>

#include <regex>
#include <set>

#include "core/files.h"
#include "tests/check.h"

namespace cbq::test {
namespace {

std::vector<OpCase> differentiable_cases() {
  std::vector<OpCase> cases = all_cases();
  std::erase_if(cases, [](const OpCase& c) { return bool(c.surrogate); });
  return cases;
}

class Gradients : public testing::TestWithParam<OpCase> {};
TEST_P(Gradients, AgreeWithDifferences) {
  const auto ctx = open_cpu(1);  // determinism.cpp compares threads
  const OpCase& c = GetParam();
  const std::vector<Values> point = c.sample();
  const HostFunction f = [&](std::span<const Values> inputs) { return forward(*ctx, c, DType::f64, inputs); };
  check_gradients(c, f, point, evaluate(*ctx, c, DType::f64, point));
}
INSTANTIATE_TEST_SUITE_P(Cases, Gradients, testing::ValuesIn(differentiable_cases()), case_name);

// A kernel that is asked for one gradient only gives the same bits as when it is asked for all.
class OneGradient : public testing::TestWithParam<OpCase> {};
TEST_P(OneGradient, IsThatOfAll) {
  const auto ctx = open_cpu(1);
  const OpCase& c = GetParam();
  const std::vector<Values> point = c.sample();
  const Result all = evaluate(*ctx, c, DType::f64, point);
  for (std::size_t i = 0; i < point.size(); ++i) {
    if (c.inputs[i].role != Role::differentiated) continue;
    EXPECT_EQ(evaluate(*ctx, c, DType::f64, point, int(i)).gradients[i], all.gradients[i]) << "input " << i;
  }
}
INSTANTIATE_TEST_SUITE_P(Cases, OneGradient, testing::ValuesIn(all_cases()), case_name);

TEST(Cases, CoverEveryDifferentiableKernel) {
  const std::string contract = read_file("core/kernels.h");
  const std::regex member(R"(void \(\*(\w+)\)\()");
  std::set<std::string> table, covered;
  for (std::sregex_iterator it(contract.begin(), contract.end(), member), end; it != end; ++it) table.insert((*it)[1]);
  ASSERT_GT(table.size(), 40u);
  for (const OpCase& c : all_cases()) covered.insert(c.kernels.begin(), c.kernels.end());
  for (const std::string& name : covered) EXPECT_TRUE(table.contains(name)) << name << " is not in core/kernels.h";
  for (const std::string& name : table) {
    if (!name.ends_with("_forward") && !name.ends_with("_backward")) continue;
    EXPECT_TRUE(covered.contains(name)) << name << " has no case in tests/cases.cpp or tests/quantiser_cases.cpp";
  }
  for (const char* name : {"add", "mul", "scale", "scaled_exp", "matmul", "matmul_integers", "column_sum", "rope"})
    EXPECT_TRUE(covered.contains(name)) << name;
}

TEST(Cases, HaveNamesOfTheirOwn) {
  std::set<std::string> names;
  for (const OpCase& c : all_cases()) EXPECT_TRUE(names.insert(c.name).second) << c.name;
}

// The check itself: an error of one part in a million in a gradient must be seen.
TEST(Check, SeesSmallErrors) {
  const auto ctx = open_cpu(1);
  const OpCase c = gated_case(5, 7);
  const std::vector<Values> point = c.sample();
  const HostFunction f = [&](std::span<const Values> inputs) { return forward(*ctx, c, DType::f64, inputs); };
  Result result = evaluate(*ctx, c, DType::f64, point);
  for (double& g : result.gradients[1]) g *= 1 + 1e-6;
  testing::TestPartResultArray failures;
  {
    const testing::ScopedFakeTestPartResultReporter reporter(&failures);
    check_gradients(c, f, point, result);
  }
  EXPECT_GT(failures.size(), 0);
  const Values nan = {NAN}, one = {1};
  EXPECT_FALSE(relative_error(nan, one) <= 1e9);
  EXPECT_FALSE(relative_error(one, nan) <= 1e9);
}

}  // namespace
}  // namespace cbq::test
