// The kernels that pack codes, on any device, against the definition of core/bitpack.h.
#pragma once

#include <gtest/gtest.h>

#include <vector>

#include "core/bitpack.h"
#include "core/kernels.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace cbq::test {

struct PackCase {
  std::int64_t rows, cols;
  int bits;
};

// Every width, with rows that end inside a word, in the middle of a field that straddles two, and on a word's end.
inline std::vector<PackCase> pack_cases() {
  std::vector<PackCase> cases;
  for (int bits = 1; bits <= 8; ++bits)
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                     {3, 11},
                                     {7, 31},
                                     {5, 32},
                                     {1, 33},
                                     {33, 1},
                                     {64, 4099},
                                     {300, 1056}})
      cases.push_back({rows, cols, bits});
  return cases;
}

inline void check_packing(Context& ctx, const PackCase& c) {
  SCOPED_TRACE(concat("(", c.rows, ", ", c.cols, ") of ", c.bits, " bits"));
  Rng rng(std::uint64_t(c.rows * 10000 + c.cols * 10 + c.bits));
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(c.rows * c.cols));
  for (std::uint8_t& code : codes) code = std::uint8_t(rng.below(1u << c.bits));
  const Shape shape = {c.rows, c.cols}, packed_shape = {c.rows, word_count(c.cols, c.bits)};
  std::vector<std::uint32_t> expected(static_cast<std::size_t>(packed_shape.count()));
  pack_rows(codes, c.rows, c.cols, c.bits, expected);

  const Tensor words(ctx, packed_shape, DType::i32), back(ctx, shape, DType::u8);
  ctx.kernels->pack_codes(ctx, words, from_host<std::uint8_t>(ctx, shape, DType::u8, codes), c.bits);
  const std::vector<std::int32_t> found = to_host<std::int32_t>(ctx, words);
  EXPECT_EQ(std::vector<std::uint32_t>(found.begin(), found.end()), expected);
  ctx.kernels->unpack_codes(ctx, back, words, c.bits);
  EXPECT_EQ(to_host<std::uint8_t>(ctx, back), codes);
  EXPECT_THROW(ctx.kernels->pack_codes(ctx, Tensor(ctx, {c.rows, packed_shape[1] + 1}, DType::i32), back, c.bits),
               Error);
}

}  // namespace cbq::test
