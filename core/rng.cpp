#include "core/rng.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace cbq {

namespace {

// ln(x) for 0 < x <= 1, relative error below 1e-15. std::log differs between libraries in the last bit. Here each
// product that is added to something is an explicit fma, so the compiler has nothing left to contract on its own.
// x = m * 2^e with sqrt(1/2) <= m < sqrt(2);  ln(m) = 2 * atanh(t) = 2 * (t + t^3/3 + t^5/5 + ...),  t = (m-1)/(m+1).
double portable_log(double x) {
  constexpr double kLn2 = 0x1.62e42fefa39efp-1, kSqrtHalf = 0x1.6a09e667f3bcdp-1;
  int exponent;
  double m = std::frexp(x, &exponent);  // 1/2 <= m < 1, exact
  if (m < kSqrtHalf) {
    m *= 2;
    --exponent;
  }
  const double t = (m - 1) / (m + 1), t2 = t * t;
  double sum = 0;  // |t| <= 0.172, so the term t^25/25 is below 1e-20
  for (int k = 25; k >= 1; k -= 2) sum = std::fma(sum, t2, 1.0 / k);
  const double log_m = 2 * t * sum;
  return std::fma(exponent, kLn2, log_m);
}

}  // namespace

Rng::Rng(std::uint64_t seed) {
  for (std::uint64_t& word : state_) {
    std::uint64_t z = seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    word = z ^ (z >> 31);
  }
}

Rng::Rng(const State& state) : state_(state) {
  require(state != State{}, "rng: a state must not be all zeros");
}

std::uint64_t Rng::below(std::uint64_t n) {
  require(n > 0, "rng: below(n) needs n > 0");
  const std::uint64_t surplus = -n % n;  // 2^64 mod n: the results from here on are a multiple of n many
  for (;;) {
    const std::uint64_t draw = next_u64();
    if (draw >= surplus) return draw % n;
  }
}

double Rng::normal() {
  for (;;) {
    const double u = 2 * uniform() - 1, v = 2 * uniform() - 1;  // exact
    const double s = std::fma(u, u, v * v);
    if (s > 0 && s < 1) return u * std::sqrt(-2 * portable_log(s) / s);
  }
}

// Seeding and recurrence as in the authors' mt19937ar: init_genrand(19650218), then init_by_array(seed digits).
PythonRandom::PythonRandom(std::uint64_t seed) {
  const std::array<std::uint32_t, 2> key = {std::uint32_t(seed), std::uint32_t(seed >> 32)};
  const int key_count = key[1] == 0 ? 1 : 2;
  words_[0] = 19650218u;
  for (int i = 1; i < kWords; ++i) words_[i] = 1812433253u * (words_[i - 1] ^ (words_[i - 1] >> 30)) + std::uint32_t(i);

  int i = 1;
  const auto mix = [&](std::uint32_t factor, std::uint32_t add) {
    words_[i] = (words_[i] ^ ((words_[i - 1] ^ (words_[i - 1] >> 30)) * factor)) + add;
    if (++i < kWords) return;
    words_[0] = words_[kWords - 1];
    i = 1;
  };
  for (int k = 0; k < kWords; ++k) mix(1664525u, key[k % key_count] + std::uint32_t(k % key_count));
  for (int k = 1; k < kWords; ++k) mix(1566083941u, -std::uint32_t(i));
  words_[0] = 0x80000000u;
}

void PythonRandom::refill() {
  constexpr int kShift = 397;
  for (int i = 0; i < kWords; ++i) {
    const std::uint32_t joined = (words_[i] & 0x80000000u) | (words_[(i + 1) % kWords] & 0x7fffffffu);
    words_[i] = words_[(i + kShift) % kWords] ^ (joined >> 1) ^ ((joined & 1u) ? 0x9908b0dfu : 0u);
  }
  used_ = 0;
}

std::uint32_t PythonRandom::next_u32() {
  if (used_ == kWords) refill();
  std::uint32_t y = words_[used_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

std::uint64_t PythonRandom::bits(int bits) {
  require(bits >= 1 && bits <= 64, "PythonRandom: expected 1 to 64 bits, found ", bits);
  if (bits <= 32) return next_u32() >> (32 - bits);
  const std::uint64_t low = next_u32();
  return low | std::uint64_t(next_u32() >> (64 - bits)) << 32;
}

std::int64_t PythonRandom::randint(std::int64_t low, std::int64_t high) {
  const std::uint64_t span = std::uint64_t(high) - std::uint64_t(low);
  require(low <= high && span < std::uint64_t(INT64_MAX),
          "randint: expected low <= high and fewer than 2^63 values, found ", low, " and ", high);
  const std::uint64_t count = span + 1;
  for (;;) {
    const std::uint64_t draw = bits(std::bit_width(count));
    if (draw < count) return std::int64_t(std::uint64_t(low) + draw);
  }
}

}  // namespace cbq
