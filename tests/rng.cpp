#include "core/rng.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "tests/error_text.h"

namespace cbq {
namespace {

std::vector<std::int64_t> draws(std::uint64_t seed, std::int64_t low, std::int64_t high, int count) {
  PythonRandom random(seed);
  std::vector<std::int64_t> numbers;
  for (int i = 0; i < count; ++i) numbers.push_back(random.randint(low, high));
  return numbers;
}

TEST(PythonRandom, IsPythons) {
  using Numbers = std::vector<std::int64_t>;
  // random.seed(s); [random.randint(a, b) for _ in range(n)] of CPython 3.
  EXPECT_EQ(draws(0, 0, 356316, 5), (Numbers{201979, 220500, 21225, 135746, 268055}));
  EXPECT_EQ(draws(2, 0, 356316, 5), (Numbers{29649, 48016, 44497, 189298, 88648}));
  EXPECT_EQ(draws(42, 0, 356316, 5), (Numbers{335243, 58369, 13112, 144194, 128393}));
  EXPECT_EQ(draws(4294967295, 0, 356316, 4), (Numbers{333110, 324832, 106535, 112901}));
  EXPECT_EQ(draws(4294967296, 0, 356316, 4), (Numbers{59241, 184188, 219062, 8743}));
  EXPECT_EQ(draws(4294967338, 0, 356316, 4), (Numbers{296185, 201271, 91799, 64592}));
  EXPECT_EQ(draws(18446744073709551615u, -5, 5, 4), (Numbers{-5, -2, 0, 4}));
  EXPECT_EQ(draws(123456789012345, 0, 1099511627793, 4),
            (Numbers{483933185269, 903198669547, 419528762942, 1016661214963}));
  EXPECT_EQ(draws(1, 0, 4294967295, 4), (Numbers{3280387012, 1095513148, 1930549411, 2798570523}));
  EXPECT_EQ(draws(1, 0, 4294967296, 4), (Numbers{3280387012, 1095513148, 1930549411, 2798570523}));
  EXPECT_EQ(draws(9, -4611686018427387904, 2305843009213693952, 4),
            (Numbers{1044226222319969902, -2147805811893510416, -2894801896710123094, 1629249388798213973}));
}

TEST(PythonRandom, RefillsItsState) {
  // More numbers than the state has words; the 2000th of random.getrandbits(32).
  PythonRandom random(7);
  std::uint64_t last = 0;
  for (int i = 0; i < 2000; ++i) last = random.bits(32);
  EXPECT_EQ(last, 2803521222u);
}

TEST(PythonRandom, RefusesEmptyRanges) {
  PythonRandom random(0);
  EXPECT_NE(error_text([&] { random.randint(3, 2); }, ErrorKind::failure).find("low <= high"), std::string::npos);
  EXPECT_NE(error_text([&] { random.bits(65); }, ErrorKind::failure).find("1 to 64 bits"), std::string::npos);
  EXPECT_EQ(random.randint(5, 5), 5);
}

TEST(Rng, IsXoshiro256StarStar) {
  // By hand from the recurrence, state {1, 2, 3, 4}: rotl(2 * 5, 7) * 9 = 11520; then s1 = 0, so the result is 0; then
  // s1 = 262149: rotl(262149 * 5, 7) * 9 = 1509978240.
  Rng rng(Rng::State{1, 2, 3, 4});
  EXPECT_EQ(rng.next_u64(), 11520u);
  EXPECT_EQ(rng.next_u64(), 0u);
  EXPECT_EQ(rng.next_u64(), 1509978240u);
  // splitmix64 of seed 0, first number: known from its authors' C code.
  EXPECT_EQ(Rng(0).state()[0], 0xe220a8397b1dcdafu);
}

TEST(Rng, ContinuesFromItsState) {
  Rng a(5);
  for (int i = 0; i < 3; ++i) a.normal();
  Rng b(a.state());
  for (int i = 0; i < 10; ++i) ASSERT_EQ(a.normal(), b.normal()) << i;
  EXPECT_NE(Rng(5).next_u64(), Rng(6).next_u64());
  EXPECT_NE(error_text([] { Rng rng(Rng::State{}); }, ErrorKind::failure).find("all zeros"), std::string::npos);
}

TEST(Rng, BelowIsEvenAndInRange) {
  Rng rng(1);
  constexpr int kSides = 7, kDraws = 70000;
  std::array<int, kSides> seen{};
  for (int i = 0; i < kDraws; ++i) {
    const std::uint64_t side = rng.below(kSides);
    ASSERT_LT(side, std::uint64_t(kSides));
    ++seen[side];
  }
  // The standard deviation of a count is sqrt(70000 * 1/7 * 6/7) = 92.6.
  for (int count : seen) EXPECT_NEAR(count, kDraws / kSides, 5 * 93);
  EXPECT_EQ(rng.below(1), 0u);
  // Two of three draws lie below 2^63 of n = 3 * 2^62; modulo without redrawing would put half of them below 2^62.
  int low = 0;
  for (int i = 0; i < kDraws; ++i) low += rng.below(std::uint64_t(3) << 62) < std::uint64_t(1) << 62;
  EXPECT_NEAR(low, kDraws / 3, 5 * 125);
  EXPECT_NE(error_text([&] { rng.below(0); }, ErrorKind::failure).find("n > 0"), std::string::npos);
}

TEST(Rng, UniformAndNormalHaveTheirMoments) {
  Rng rng(2);
  constexpr int kDraws = 200000;
  double uniform_sum = 0, sum = 0, sum2 = 0, sum4 = 0;
  int outside = 0;  // |x| > 1.959964: 5 %
  for (int i = 0; i < kDraws; ++i) {
    const double u = rng.uniform(), x = rng.normal();
    ASSERT_TRUE(u >= 0 && u < 1);
    uniform_sum += u;
    sum += x;
    sum2 += x * x;
    sum4 += x * x * x * x;
    outside += std::abs(x) > 1.959964;
  }
  // Five standard errors each.
  EXPECT_NEAR(uniform_sum / kDraws, 0.5, 5 * 0.2887 / std::sqrt(kDraws));
  EXPECT_NEAR(sum / kDraws, 0, 5 / std::sqrt(kDraws));
  EXPECT_NEAR(sum2 / kDraws, 1, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(sum4 / kDraws, 3, 5 * std::sqrt(96.0 / kDraws));
  EXPECT_NEAR(outside / double(kDraws), 0.05, 5 * std::sqrt(0.05 * 0.95 / kDraws));
}

TEST(Rng, NormalFollowsThePolarFormula) {
  Rng rng(3), numbers(3);
  for (int i = 0; i < 10000; ++i) {
    double u, s;
    do {
      u = 2 * numbers.uniform() - 1;
      const double v = 2 * numbers.uniform() - 1;
      s = u * u + v * v;
    } while (s <= 0 || s >= 1);
    const double expected = u * std::sqrt(-2 * std::log(s) / s), got = rng.normal();
    // s carries a rounding error of 2^-53, which ln(s) near s = 1 shows relative to 1 - s.
    ASSERT_TRUE(std::abs(got - expected) <= 1e-14 * std::abs(expected) / (1 - s)) << got << " " << expected;
  }
}

TEST(Rng, NormalIsTheSameEverywhere) {
  Rng rng(4);
  for (double expected : {-0x1.d158dd086f926p-3, -0x1.7cc9a4e95475dp-5, -0x1.5719d30bf000ap+0, -0x1.0461635332a2bp-3})
    EXPECT_EQ(rng.normal(), expected);
}

}  // namespace
}  // namespace cbq
