// Random numbers that are the same on every platform: no std distribution, no function of the maths library.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace cbq {

// xoshiro256** 1.0, state filled by splitmix64 as its authors advise. Blackman & Vigna 2021, Scrambled linear
// pseudorandom number generators, ACM TOMS 47(4); Steele, Lea & Flood 2014 for splitmix64.
class Rng {
 public:
  using State = std::array<std::uint64_t, 4>;

  explicit Rng(std::uint64_t seed);
  // Continues where state() was taken. Error failure: all words 0, from which the generator never gets away.
  explicit Rng(const State& state);
  // All there is: no number is kept back between calls.
  const State& state() const { return state_; }

  std::uint64_t next_u64() {
    const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9, shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // Uniform in [0, 1), a multiple of 2^-53.
  double uniform() { return double(next_u64() >> 11) * 0x1p-53; }

  // Uniform in 0 .. n-1, without bias: numbers that would favour small results are drawn again. n > 0, else failure.
  std::uint64_t below(std::uint64_t n);

  // Standard normal, by the polar method (Marsaglia & Bray 1964). One of its two numbers is dropped to keep no state.
  double normal();

 private:
  State state_;
};

// The generator behind Python's `random` module after random.seed(seed): MT19937 (Matsumoto & Nishimura 1998) started
// by init_by_array with the seed's 32-bit digits, lowest first. Calibration samples are drawn as other tools draw them.
class PythonRandom {
 public:
  explicit PythonRandom(std::uint64_t seed);

  // random.randint(low, high): uniform in low .. high, both included. Error failure: low > high, or 2^63 values or
  // more.
  std::int64_t randint(std::int64_t low, std::int64_t high);
  // random.getrandbits(bits), 1 <= bits <= 64.
  std::uint64_t bits(int bits);

 private:
  static constexpr int kWords = 624;

  std::uint32_t next_u32();
  void refill();

  std::array<std::uint32_t, kWords> words_;
  int used_ = kWords;  // words of the state already given out
};

}  // namespace cbq
