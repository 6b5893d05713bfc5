#include "core/bitpack.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "core/rng.h"
#include "tests/error_text.h"

namespace cbq {
namespace {

using Codes = std::vector<std::uint8_t>;
using Words = std::vector<std::uint32_t>;

Codes random_codes(Rng& rng, std::int64_t count, int bits) {
  Codes codes(std::size_t(count), 0);
  for (auto& code : codes) code = std::uint8_t(rng.below(1u << bits));
  return codes;
}

// The definition, bit by bit: bit k of the stream is bit k % 32 of word k / 32.
Words packed_bit_by_bit(const Codes& codes, int bits) {
  Words words(std::size_t((std::ssize(codes) * bits + 31) / 32), 0u);
  for (std::size_t i = 0; i < codes.size(); ++i)
    for (std::size_t b = 0; b < std::size_t(bits); ++b) {
      const std::size_t k = i * std::size_t(bits) + b;
      words[k / 32] |= std::uint32_t((codes[i] >> b) & 1) << (k % 32);
    }
  return words;
}

TEST(Bitpack, CountsWords) {
  EXPECT_EQ(word_count(0, 4), 0);
  EXPECT_EQ(word_count(1, 1), 1);
  EXPECT_EQ(word_count(8, 4), 1);
  EXPECT_EQ(word_count(9, 4), 2);
  EXPECT_EQ(word_count(32, 3), 3);
  EXPECT_EQ(word_count(11, 3), 2);
  EXPECT_EQ(word_count(std::int64_t(1) << 40, 8), std::int64_t(1) << 38);
  for (int bits : {0, 9, -1})
    EXPECT_NE(error_text([&] { word_count(1, bits); }, ErrorKind::failure).find("1 to 8 bits"), std::string::npos);
}

TEST(Bitpack, HasFourBitFieldsFromTheLowEnd) {
  Words words(1);
  pack(Codes{1, 2, 3, 4, 5, 6, 7, 8}, 4, words);
  EXPECT_EQ(words, (Words{0x87654321u}));
}

// 3 bits: code 10 has bits 30, 31 and 32 of the stream, code 21 has bits 63, 64 and 65.
TEST(Bitpack, LetsThreeBitFieldsStraddleWords) {
  Codes codes(32, 0);
  codes[10] = 0b101;
  codes[21] = 0b110;
  Words words(3, 0xffffffffu);
  pack(codes, 3, words);
  EXPECT_EQ(words, (Words{0x40000000u, 0x00000001u, 0x00000003u}));
  codes[21] = 0b011;
  pack(codes, 3, words);
  EXPECT_EQ(words, (Words{0x40000000u, 0x80000001u, 0x00000001u}));
}

TEST(Bitpack, LeavesTailBitsZero) {
  for (int bits = 1; bits <= 8; ++bits) {
    const std::uint8_t highest = std::uint8_t((1u << bits) - 1);
    Words words(1, 0xffffffffu);
    pack(Codes{highest, highest, highest}, bits, words);
    EXPECT_EQ(words[0], (1u << (3 * bits)) - 1) << bits;
  }
}

TEST(Bitpack, IsTheStreamAtEveryWidthAndSize) {
  Rng rng(1);
  for (int bits = 1; bits <= 8; ++bits)
    for (std::int64_t count : {0, 1, 2, 7, 10, 11, 21, 22, 31, 32, 33, 63, 64, 65, 127, 4099}) {
      const Codes codes = random_codes(rng, count, bits);
      Words words(std::size_t(word_count(count, bits)), 0xdeadbeefu);
      pack(codes, bits, words);
      ASSERT_EQ(words, packed_bit_by_bit(codes, bits)) << bits << " bits, " << count << " codes";
      Codes back(codes.size(), 0xaa);
      unpack(words, bits, back);
      ASSERT_EQ(back, codes) << bits << " bits, " << count << " codes";
    }
}

TEST(Bitpack, PacksRowsAndColumnsAsStreamsOfTheirOwn) {
  Rng rng(2);
  for (int bits = 1; bits <= 8; ++bits)
    for (std::int64_t rows : {1, 3, 11, 32, 37})
      for (std::int64_t cols : {1, 5, 32, 43}) {
        const Codes codes = random_codes(rng, rows * cols, bits);
        const std::int64_t row_words = word_count(cols, bits), column_words = word_count(rows, bits);
        Words by_row(std::size_t(rows * row_words), 0xdeadbeefu),
            by_column(std::size_t(column_words * cols), 0xdeadbeefu);
        pack_rows(codes, rows, cols, bits, by_row);
        pack_columns(codes, rows, cols, bits, by_column);
        for (std::int64_t r = 0; r < rows; ++r) {
          const Codes row(codes.begin() + r * cols, codes.begin() + (r + 1) * cols);
          const Words words(by_row.begin() + r * row_words, by_row.begin() + (r + 1) * row_words);
          ASSERT_EQ(words, packed_bit_by_bit(row, bits)) << bits << " bits, row " << r;
        }
        for (std::int64_t c = 0; c < cols; ++c) {
          Codes column;
          Words words;
          for (std::int64_t r = 0; r < rows; ++r) column.push_back(codes[std::size_t(r * cols + c)]);
          for (std::int64_t w = 0; w < column_words; ++w) words.push_back(by_column[std::size_t(w * cols + c)]);
          ASSERT_EQ(words, packed_bit_by_bit(column, bits)) << bits << " bits, column " << c;
        }
        Codes back(codes.size(), 0xaa);
        unpack_rows(by_row, rows, cols, bits, back);
        ASSERT_EQ(back, codes);
        std::fill(back.begin(), back.end(), std::uint8_t(0xaa));
        unpack_columns(by_column, rows, cols, bits, back);
        ASSERT_EQ(back, codes);
      }
}

TEST(Bitpack, RefusesCodesThatDoNotFit) {
  for (int bits = 1; bits < 8; ++bits) {
    const Codes codes = {0, 0, 0, 0, 0, std::uint8_t(1u << bits)};
    Words words(std::size_t(word_count(6, bits))), columns(std::size_t(word_count(2, bits) * 3));
    EXPECT_NE(error_text([&] { pack(codes, bits, words); }, ErrorKind::failure).find("at index 5"), std::string::npos);
    EXPECT_NE(error_text([&] { pack_columns(codes, 2, 3, bits, columns); }, ErrorKind::failure).find("at index 5"),
              std::string::npos);
  }
}

TEST(Bitpack, RefusesWrongSizes) {
  const Codes codes(12, 0);
  Words words(2);
  Codes out(12);
  const auto expect = [](const auto& action, const char* text) {
    EXPECT_NE(error_text(action, ErrorKind::failure).find(text), std::string::npos) << error_text(action);
  };
  expect([&] { pack(codes, 8, words); }, "expected 3 words, found 2");
  expect([&] { unpack(words, 8, out); }, "expected 3 words, found 2");
  expect([&] { pack_rows(codes, 3, 5, 4, words); }, "expected codes (3, 5), found 12");
  expect([&] { pack_columns(codes, 4, 3, 4, words); }, "expected 3 words, found 2");
  expect([&] { unpack_columns(words, 4, 3, 4, out); }, "expected 3 words, found 2");
  expect([&] { pack_rows(codes, -3, -4, 4, words); }, "bitpack");
}

}  // namespace
}  // namespace cbq
