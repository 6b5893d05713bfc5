#include "core/bitpack.h"

#include <algorithm>
#include <cstddef>

#include "core/error.h"

namespace cbq {

namespace {

constexpr int kWordBits = 32;
constexpr std::int64_t kSerialCodes = 1 << 18;  // up to which threads would cost more than they save

void check_sizes(std::int64_t rows, std::int64_t cols, std::size_t codes, std::int64_t expected_words,
                 std::size_t words) {
  require(rows >= 0 && cols >= 0 && std::size_t(rows * cols) == codes, "bitpack: expected codes (", rows, ", ", cols,
          "), found ", codes);
  require(std::size_t(expected_words) == words, "bitpack: expected ", expected_words, " words, found ", words);
}

void check_codes(std::span<const std::uint8_t> codes, int bits) {
  const unsigned highest = (1u << bits) - 1;
  unsigned char seen = 0;  // all bits of all codes: a loop that vectorises
  for (const std::uint8_t code : codes) seen |= code;
  if (seen <= highest) return;
  const auto bad = std::find_if(codes.begin(), codes.end(), [&](std::uint8_t code) { return code > highest; });
  fail(ErrorKind::failure, "bitpack: expected codes from 0 to ", highest, " (", bits, " bits), found ", unsigned(*bad),
       " at index ", bad - codes.begin());
}

void pack_stream(const std::uint8_t* codes, std::int64_t count, int bits, std::uint32_t* words) {
  std::uint64_t held = 0;  // bits that do not fill a word yet
  int held_bits = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    held |= std::uint64_t(codes[i]) << held_bits;
    held_bits += bits;
    if (held_bits < kWordBits) continue;
    *words++ = std::uint32_t(held);
    held >>= kWordBits;
    held_bits -= kWordBits;
  }
  if (held_bits > 0) *words = std::uint32_t(held);
}

void unpack_stream(const std::uint32_t* words, std::int64_t count, int bits, std::uint8_t* codes) {
  const std::uint32_t mask = (1u << bits) - 1;
  std::uint64_t held = 0;
  int held_bits = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    if (held_bits < bits) {
      held |= std::uint64_t(*words++) << held_bits;
      held_bits += kWordBits;
    }
    codes[i] = std::uint8_t(held & mask);
    held >>= bits;
    held_bits -= bits;
  }
}

}  // namespace

std::int64_t word_count(std::int64_t count, int bits) {
  require(bits >= 1 && bits <= 8, "bitpack: expected 1 to 8 bits, found ", bits);
  require(count >= 0, "bitpack: expected a count of codes, found ", count);
  return (count * bits + kWordBits - 1) / kWordBits;
}

void pack(std::span<const std::uint8_t> codes, int bits, std::span<std::uint32_t> words) {
  pack_rows(codes, 1, std::ssize(codes), bits, words);
}

void unpack(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> codes) {
  unpack_rows(words, 1, std::ssize(codes), bits, codes);
}

void pack_rows(std::span<const std::uint8_t> codes, std::int64_t rows, std::int64_t cols, int bits,
               std::span<std::uint32_t> words) {
  const std::int64_t row_words = word_count(cols, bits);
  check_sizes(rows, cols, codes.size(), rows * row_words, words.size());
  check_codes(codes, bits);
#pragma omp parallel for if (rows * cols > kSerialCodes)
  for (std::int64_t r = 0; r < rows; ++r)
    pack_stream(codes.data() + r * cols, cols, bits, words.data() + r * row_words);
}

void unpack_rows(std::span<const std::uint32_t> words, std::int64_t rows, std::int64_t cols, int bits,
                 std::span<std::uint8_t> codes) {
  const std::int64_t row_words = word_count(cols, bits);
  check_sizes(rows, cols, codes.size(), rows * row_words, words.size());
#pragma omp parallel for if (rows * cols > kSerialCodes)
  for (std::int64_t r = 0; r < rows; ++r)
    unpack_stream(words.data() + r * row_words, cols, bits, codes.data() + r * cols);
}

// The column versions go along rows of the matrix, so that memory is read in order: all fields of one row of codes have
// the same place in their words.
void pack_columns(std::span<const std::uint8_t> codes, std::int64_t rows, std::int64_t cols, int bits,
                  std::span<std::uint32_t> words) {
  check_sizes(rows, cols, codes.size(), word_count(rows, bits) * cols, words.size());
  check_codes(codes, bits);
  std::fill(words.begin(), words.end(), 0u);
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::uint8_t* row = codes.data() + r * cols;
    const int shift = int(r * bits % kWordBits);
    std::uint32_t* low = words.data() + r * bits / kWordBits * cols;
    for (std::int64_t c = 0; c < cols; ++c) low[c] |= std::uint32_t(row[c]) << shift;
    if (shift + bits <= kWordBits) continue;
    std::uint32_t* high = low + cols;
    for (std::int64_t c = 0; c < cols; ++c) high[c] |= std::uint32_t(row[c]) >> (kWordBits - shift);
  }
}

void unpack_columns(std::span<const std::uint32_t> words, std::int64_t rows, std::int64_t cols, int bits,
                    std::span<std::uint8_t> codes) {
  check_sizes(rows, cols, codes.size(), word_count(rows, bits) * cols, words.size());
  const std::uint32_t mask = (1u << bits) - 1;
  for (std::int64_t r = 0; r < rows; ++r) {
    std::uint8_t* row = codes.data() + r * cols;
    const int shift = int(r * bits % kWordBits);
    const std::uint32_t* low = words.data() + r * bits / kWordBits * cols;
    for (std::int64_t c = 0; c < cols; ++c) row[c] = std::uint8_t((low[c] >> shift) & mask);
    if (shift + bits <= kWordBits) continue;
    const std::uint32_t* high = low + cols;
    for (std::int64_t c = 0; c < cols; ++c) row[c] = std::uint8_t(row[c] | ((high[c] << (kWordBits - shift)) & mask));
  }
}

}  // namespace cbq
