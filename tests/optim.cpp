// The optimiser around the update kernels: groups, schedules, bounds, missing gradients, and that it converges.
#include "autograd/optim.h"

#include "core/kernels.h"
#include "tests/check.h"

namespace cbq::test {
namespace {

class OptimTest : public testing::Test {
 protected:
  Tensor tensor(Shape shape, Values values) { return from_host<double>(ctx_, shape, DType::f64, values); }
  void give(Parameter& p, Values gradient) { p.slot->collect(ctx_, tensor(p.value.shape(), std::move(gradient))); }
  void expect(const Parameter& p, Values expected) {
    expect_close(to_host<double>(ctx_, p.value), expected, 1e-13, p.name);
  }

  std::unique_ptr<Context> owner_ = open_cpu();
  Context& ctx_ = *owner_;
};

TEST(Schedule, Factors) {
  EXPECT_EQ(schedule_factor(Schedule::constant, 0, 10), 1);
  EXPECT_EQ(schedule_factor(Schedule::constant, 9, 10), 1);
  EXPECT_EQ(schedule_factor(Schedule::linear, 0, 8), 1);
  EXPECT_EQ(schedule_factor(Schedule::linear, 2, 8), 0.75);
  EXPECT_EQ(schedule_factor(Schedule::linear, 7, 8), 0.125);
  EXPECT_EQ(schedule_factor(Schedule::cosine, 0, 8), 1);
  EXPECT_NEAR(schedule_factor(Schedule::cosine, 2, 8), 0.8535533905932737, 1e-15);  // (1 + sqrt(1/2)) / 2
  EXPECT_NEAR(schedule_factor(Schedule::cosine, 4, 8), 0.5, 1e-15);
  EXPECT_EQ(schedule_factor(Schedule::constant, 0, 10, 4), 0.25);
  EXPECT_EQ(schedule_factor(Schedule::constant, 3, 10, 4), 1);
  EXPECT_EQ(schedule_factor(Schedule::linear, 1, 10, 4), 0.45);  // 0.9 * 2/4
  EXPECT_THROW(schedule_factor(Schedule::linear, 10, 10), Error);
  EXPECT_THROW(schedule_factor(Schedule::linear, -1, 10), Error);
}

// The three steps of tests/ops_golden.cpp, with a constant schedule.
TEST_F(OptimTest, AdamWSteps) {
  Parameter p("p", tensor({3}, {1, -2, 0.5}));
  Optimizer optimizer(
      ctx_, {{.parameters = {&p}, .lr = 0.1, .schedule = Schedule::constant, .epsilon = 0.01, .weight_decay = 0.1}}, 3);
  const Values gradients[] = {{0.5, -1, 2}, {-0.25, 0.5, 2}, {1, 0, -4}};
  for (const Values& gradient : gradients) {
    give(p, gradient);
    optimizer.step();
    EXPECT_FALSE(bool(p.slot->grad));
  }
  EXPECT_EQ(optimizer.steps_done(), 3);
  expect(p, {0.7843806087716827, -1.796638191884288, 0.29656452530854965});
  EXPECT_THROW(optimizer.step(), Error);  // the schedule has ended
}

TEST_F(OptimTest, SignSgdFollowsTheScheduleAndTheBounds) {
  Parameter p("p", tensor({4}, {0, 0.25, -0.25, 0.5}));
  Optimizer optimizer(ctx_,
                      {{.parameters = {&p},
                        .lr = 0.4,
                        .update = Update::sign_sgd,
                        .schedule = Schedule::linear,
                        .low = -0.5,
                        .high = 0.5}},
                      2);
  give(p, {3, -0.1, 5, 0});
  optimizer.step();
  expect(p, {-0.4, 0.5, -0.5, 0.5});  // the middle two stop at a bound
  give(p, {1, 1, -1, 0});
  optimizer.step();  // at half the rate
  expect(p, {-0.5, 0.3, -0.3, 0.5});
}

TEST_F(OptimTest, GroupsHaveTheirOwnRates) {
  Parameter a("a", tensor({1}, {1})), b("b", tensor({1}, {1}));
  Optimizer optimizer(ctx_,
                      {{.parameters = {&a}, .lr = 0.5, .update = Update::sign_sgd},
                       {.parameters = {&b}, .lr = 0.25, .update = Update::sign_sgd}},
                      1);
  give(a, {1});
  give(b, {-1});
  optimizer.step();
  expect(a, {0.5});
  expect(b, {1.25});
}

// A parameter that gets its first gradient late starts its moments then: its first Adam step has the size lr.
TEST_F(OptimTest, MissingGradientLeavesTheParameter) {
  Parameter p("p", tensor({2}, {1, 2}));
  Optimizer optimizer(
      ctx_, {{.parameters = {&p}, .lr = 0.1, .schedule = Schedule::constant, .epsilon = 1e-15, .weight_decay = 0.5}},
      5);
  for (int i = 0; i < 4; ++i) optimizer.step();
  expect(p, {1, 2});
  EXPECT_EQ(optimizer.steps_done(), 4);
  give(p, {3, -3});
  optimizer.step();
  expect(p, {1 - 0.1 - 0.05, 2 + 0.1 - 0.1});
}

TEST_F(OptimTest, WrongUseIsAnError) {
  Parameter p("p", tensor({2}, {1, 2})), empty("empty", Tensor()), half("half", convert(ctx_, p.value, DType::bf16));
  EXPECT_THROW(Optimizer(ctx_, {{.parameters = {&p, &p}, .lr = 0.1}}, 1), Error);
  EXPECT_THROW(Optimizer(ctx_, {{.parameters = {&empty}, .lr = 0.1}}, 1), Error);
  EXPECT_THROW(Optimizer(ctx_, {{.parameters = {&half}, .lr = 0.1}}, 1), Error);
  EXPECT_THROW(Optimizer(ctx_, {{.parameters = {&p}, .lr = NAN}}, 1), Error);
  EXPECT_THROW(Optimizer(ctx_, {{.parameters = {&p}, .lr = 0.1, .beta1 = 1}}, 1), Error);
  EXPECT_THROW(Optimizer(ctx_, {{.parameters = {&p}, .lr = 0.1, .low = 1, .high = 0}}, 1), Error);
  Optimizer optimizer(ctx_, {{.parameters = {&p}, .lr = 0.1}}, 1);
  p.slot->grad = tensor({3}, {1, 2, 3});
  EXPECT_THROW(optimizer.step(), Error);
}

TEST_F(OptimTest, StepsAllocateNothingThatStays) {
  Parameter p("p", tensor({64}, Values(64, 1.0)));
  Optimizer optimizer(ctx_, {{.parameters = {&p}, .lr = 0.1}}, 3);
  const std::int64_t mark = ctx_.allocator->bytes_in_use();
  for (int i = 0; i < 3; ++i) {
    give(p, Values(64, 1.0));
    optimizer.step();
    EXPECT_EQ(ctx_.allocator->bytes_in_use(), mark);
  }
}

// y = x w^T + b is recovered from its samples.
TEST_F(OptimTest, RegressionConverges) {
  Rng rng(3);
  const Tensor x = tensor({64, 4}, normal(rng, 256)), w_true = tensor({3, 4}, normal(rng, 12)),
               b_true = tensor({3}, normal(rng, 3));
  const Tensor y = ops::linear(ctx_, x, w_true, b_true).value;
  Parameter w("w", full(ctx_, {3, 4}, DType::f64, 0)), b("b", full(ctx_, {3}, DType::f64, 0));
  constexpr std::int64_t kSteps = 600;
  Optimizer optimizer(ctx_, {{.parameters = {&w, &b}, .lr = 0.1}}, kSteps, 10);
  for (std::int64_t t = 0; t < kSteps; ++t) {
    Tape tape(ctx_);
    tape.backward(ops::mse(ctx_, ops::linear(ctx_, x, tape.leaf(w), tape.leaf(b)), y));
    optimizer.step();
  }
  expect_close(to_host<double>(ctx_, w.value), to_host<double>(ctx_, w_true), 1e-4, "w");
  expect_close(to_host<double>(ctx_, b.value), to_host<double>(ctx_, b_true), 1e-4, "b");
}

}  // namespace
}  // namespace cbq::test
