// Damaged GGUF files: each one either opens, and then every tensor's bytes are inside the file and read, or is refused
// with a cbq::Error. Anything else (another exception, a crash, a sanitizer report) fails.
#include <gtest/gtest.h>

#include <cstring>

#include "core/error.h"
#include "core/gguf.h"
#include "tests/gguf_bytes.h"
#include "tests/mutate.h"
#include "tests/read_tally.h"

namespace cbq {
namespace {

constexpr int kCases = 40'000;

// De-quantises and sums all tensors. Throws std::logic_error when the parser promised what the file does not hold.
double read_all(const std::string& file) {
  const std::span bytes = std::as_bytes(std::span(file));
  const GgufHeader header = parse_gguf_header(bytes, "fuzz");
  double sum = 0;
  for (const auto& [name, tensor] : header.tensors) {
    if (tensor.begin < 0 || tensor.bytes < 0 || tensor.begin > std::ssize(file) - tensor.bytes)
      throw std::logic_error("a tensor lies outside of the file");
    if (tensor.bytes * block_values(tensor.type) != tensor.shape.count() * block_bytes(tensor.type))
      throw std::logic_error("bytes and shape disagree");
    const auto data = bytes.subspan(std::size_t(tensor.begin), std::size_t(tensor.bytes));
    for (const std::byte byte : data) sum += double(byte);
    if (!is_quantised(tensor.type)) continue;
    std::vector<float> values(std::size_t(tensor.shape.count()));
    dequantise_blocks(tensor.type, data, values);
  }
  return sum;
}

// One of the places where a number of 4 or 8 bytes may stand gets one at a boundary.
std::string with_a_boundary(std::string file, test::Rng& rng) {
  const std::uint64_t size = file.size();
  const std::uint64_t numbers[] = {0,  1,  2,         3,         8,           9,          12,         13,
                                   32, 33, size - 32, size - 31, 0x7fffffffu, 1ull << 62, 1ull << 63, ~0ull};
  const std::uint64_t number = numbers[rng.below(std::size(numbers))];
  std::memcpy(file.data() + rng.below(file.size() - 8), &number, rng.below(2) ? 4 : 8);
  return file;
}

TEST(FuzzGguf, OpensOrRefuses) {
  GgufParts small;
  small.entry_count = 1;
  small.entries = gguf_entry("general.alignment", 4, little_endian(std::uint32_t(64)));
  small.alignment = 64;
  small.tensor_count = 2;
  small.tensors = gguf_tensor("a", {2}, 0, 0) + gguf_tensor("b", {32}, 2, 64);
  small.data = std::string(64 + 18, 'x');
  const std::string seeds[] = {valid_gguf().bytes(), small.bytes(), GgufParts().bytes()};
  for (const std::string& file : seeds) ASSERT_NO_THROW(read_all(file));

  test::ReadTally tally;
  for (int i = 0; i < kCases && !HasFailure(); ++i) {
    test::Rng rng{std::uint64_t(i)};
    const std::string& seed = seeds[i % 8 == 7 ? 2 : i % 2];
    const std::string file = i / 8 % 2 ? with_a_boundary(seed, rng) : test::mutate(seed, rng);
    tally.attempt(i, [&] { read_all(file); });
  }
  // Both ways must be walked often, or the mutations are too weak or too strong to mean anything.
  EXPECT_GT(tally.opened, kCases / 20);
  EXPECT_GT(tally.refused, kCases / 4);
}

}  // namespace
}  // namespace cbq
