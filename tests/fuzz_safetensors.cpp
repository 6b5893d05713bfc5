// Damaged safetensors files: each one either opens, and then every tensor's bytes are inside the file and read, or is
// refused with a cbq::Error. Anything else (another exception, a crash, a sanitizer report) fails.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "core/error.h"
#include "core/safetensors.h"
#include "tests/mutate.h"
#include "tests/read_tally.h"
#include "tests/safetensors_bytes.h"

namespace cbq {
namespace {

constexpr int kCases = 40'000;
constexpr std::size_t kLengthBytes = 8;

// Sum of all bytes of all tensors, so that each one is touched. Throws std::logic_error when the parser promised what
// the file does not hold.
std::uint64_t read_all(const std::string& file) {
  const SafetensorsHeader header = parse_safetensors_header(std::as_bytes(std::span(file)), "fuzz");
  std::uint64_t sum = 0;
  std::int64_t total = 0;
  for (const auto& [name, info] : header.tensors) {
    if (info.begin < 0 || info.bytes < 0 || info.begin > std::ssize(file) - info.bytes)
      throw std::logic_error("a tensor lies outside of the file");
    if (info.bytes != info.shape.count() * size_of(info.dtype)) throw std::logic_error("bytes and shape disagree");
    for (std::int64_t i = 0; i < info.bytes; ++i) sum += std::uint8_t(file[std::size_t(info.begin + i)]);
    total += info.bytes;
  }
  std::uint64_t length;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (total != std::ssize(file) - std::int64_t(kLengthBytes + length)) throw std::logic_error("bytes without a tensor");
  return sum;
}

// Damage that keeps the header length right, so that it reaches the checks behind the JSON parser.
std::string with_damaged_header(const std::string& file, test::Rng& rng) {
  std::uint64_t length;
  std::memcpy(&length, file.data(), kLengthBytes);
  std::string header = test::mutate(file.substr(kLengthBytes, length), rng);
  return safetensors_bytes(header, file.substr(kLengthBytes + length));
}

// Two numbers of the header change places: offsets, sizes, across tensors.
std::string with_swapped_numbers(const std::string& file, test::Rng& rng) {
  std::uint64_t length;
  std::memcpy(&length, file.data(), kLengthBytes);
  std::string header = file.substr(kLengthBytes, length);
  const auto numbers = test::detail::numbers_in(header);
  auto a = numbers[rng.below(numbers.size())], b = numbers[rng.below(numbers.size())];
  if (a.begin > b.begin) std::swap(a, b);
  if (a.begin != b.begin) {
    const std::string first = header.substr(a.begin, a.end - a.begin), second = header.substr(b.begin, b.end - b.begin);
    header.replace(b.begin, second.size(), first).replace(a.begin, first.size(), second);
  }
  return safetensors_bytes(header, file.substr(kLengthBytes + length));
}

// The header length itself at its boundaries.
std::string with_damaged_length(std::string file, test::Rng& rng) {
  const std::uint64_t size = file.size();
  const std::uint64_t lengths[] = {0,    1,           size - 9,    size - 8,   size - 7,
                                   size, 100'000'000, 100'000'001, 1ull << 63, ~0ull};
  const std::uint64_t length = lengths[rng.below(std::size(lengths))];
  std::memcpy(file.data(), &length, kLengthBytes);
  return file;
}

TEST(FuzzSafetensors, OpensOrRefuses) {
  const std::string small = safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                                              R"("b":{"dtype":"U8","shape":[1,2],"data_offsets":[2,4]}})",
                                              "wxyz");
  const std::string seeds[] = {valid_safetensors(), small, safetensors_bytes("{}", "")};
  for (const std::string& file : seeds) ASSERT_NO_THROW(read_all(file));

  test::ReadTally tally;
  for (int i = 0; i < kCases && !HasFailure(); ++i) {
    test::Rng rng{std::uint64_t(i)};
    const std::string& seed = seeds[i % 2];
    std::string file;
    switch (i / 2 % 8) {
      case 0: file = test::mutate(seeds[2], rng); break;
      case 1: file = test::mutate(seed, rng); break;
      case 2: file = with_damaged_length(seed, rng); break;
      case 3: file = with_swapped_numbers(with_swapped_numbers(seed, rng), rng); break;
      case 4: file = with_swapped_numbers(seed, rng); break;
      default: file = with_damaged_header(seed, rng); break;
    }
    tally.attempt(i, [&] { read_all(file); });
  }
  // Both ways must be walked often, or the mutations are too weak or too strong to mean anything.
  EXPECT_GT(tally.opened, kCases / 100);
  EXPECT_GT(tally.refused, kCases / 2);
}

}  // namespace
}  // namespace cbq
