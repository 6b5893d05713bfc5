// Window schedules and annealing against hand-worked lists.
#include <gtest/gtest.h>

#include "quant/cross_block.h"
#include "quant/objective.h"

namespace cbq {
namespace {

using List = std::vector<std::array<std::int64_t, 3>>;  // begin, end, next

List schedule(std::int64_t layers, std::int64_t window, std::int64_t overlap,
              WindowSchedule kind = WindowSchedule::fixed) {
  List list;
  for (const Window& w : window_schedule(layers, window, overlap, kind)) list.push_back({w.begin, w.end, w.next});
  return list;
}

TEST(WindowSchedule, Fixed) {
  EXPECT_EQ(schedule(4, 2, 1), (List{{0, 2, 1}, {1, 3, 2}, {2, 4, 4}}));
  EXPECT_EQ(schedule(4, 1, 0), (List{{0, 1, 1}, {1, 2, 2}, {2, 3, 3}, {3, 4, 4}}));
  EXPECT_EQ(schedule(5, 2, 0), (List{{0, 2, 2}, {2, 4, 4}, {4, 5, 5}}));
  EXPECT_EQ(schedule(5, 3, 1), (List{{0, 3, 2}, {2, 5, 5}}));
  EXPECT_EQ(schedule(2, 4, 3), (List{{0, 2, 2}}));
  EXPECT_EQ(schedule(1, 2, 1), (List{{0, 1, 1}}));
}

TEST(WindowSchedule, Grow) {
  EXPECT_EQ(schedule(4, 2, 1, WindowSchedule::grow), (List{{0, 1, 0}, {0, 2, 1}, {1, 3, 2}, {2, 4, 3}, {3, 4, 4}}));
  EXPECT_EQ(schedule(3, 3, 2, WindowSchedule::grow), (List{{0, 1, 0}, {0, 2, 0}, {0, 3, 1}, {1, 3, 2}, {2, 3, 3}}));
  EXPECT_EQ(schedule(1, 2, 1, WindowSchedule::grow), (List{{0, 1, 1}}));
}

// Whatever the numbers: every block enters once, in order, is finished once, and no window is empty.
TEST(WindowSchedule, EveryBlockIsFinishedOnce) {
  for (std::int64_t layers = 1; layers <= 9; ++layers)
    for (std::int64_t window = 1; window <= 5; ++window)
      for (std::int64_t overlap = 0; overlap < window; ++overlap)
        for (const WindowSchedule kind : {WindowSchedule::fixed, WindowSchedule::grow}) {
          std::int64_t finished = 0, entered = 0;
          for (const Window& w : window_schedule(layers, window, overlap, kind)) {
            ASSERT_EQ(w.begin, finished);
            ASSERT_LT(w.begin, w.end);
            ASSERT_LE(w.end - w.begin, window);
            ASSERT_GE(w.end, entered);
            ASSERT_LE(w.next, w.end);
            entered = w.end;
            finished = w.next;
          }
          ASSERT_EQ(finished, layers);
          ASSERT_EQ(entered, layers);
        }
}

TEST(Annealing, Phases) {
  RunConfig config;
  config.rounding = RoundingKind::lora;
  config.anneal_start = 0.2, config.hard_fraction = 0.1, config.beta_start = 20, config.beta_end = 2,
  config.lambda_com = 0.5;
  EXPECT_EQ(annealing_at(config, 0, 100).hardness, Hardness::soft);
  EXPECT_EQ(annealing_at(config, 19, 100).lambda, 0);
  EXPECT_EQ(annealing_at(config, 20, 100).lambda, 0.5);
  EXPECT_DOUBLE_EQ(annealing_at(config, 20, 100).beta, 20);
  EXPECT_NEAR(annealing_at(config, 55, 100).beta, 11, 1e-9);  // half of the way along the cosine
  EXPECT_GT(annealing_at(config, 89, 100).beta, 2);
  EXPECT_EQ(annealing_at(config, 90, 100).hardness, Hardness::hard);
  EXPECT_EQ(annealing_at(config, 90, 100).lambda, 0);
  config.rounding = RoundingKind::lora_ste;
  EXPECT_EQ(annealing_at(config, 50, 100).lambda, 0);
}

}  // namespace
}  // namespace cbq
