// The packed tensors of an export against the formulas of the format, bit by bit, and against its reader.
#include <gtest/gtest.h>

#include <bit>

#include "cpu/open.h"
#include "quant/export_format.h"
#include "tests/error_text.h"
#include "tests/packed_file.h"
#include "tests/tiny_model.h"

namespace cbq {
namespace {

// Field i of a stream: bit k of it is bit (i*bits + k) of the words, lowest first.
int field(const std::vector<std::uint32_t>& words, std::int64_t i, int bits) {
  int value = 0;
  for (int k = 0; k < bits; ++k) {
    const std::int64_t bit = i * bits + k;
    value |= int(words.at(std::size_t(bit / 32)) >> (bit % 32) & 1u) << k;
  }
  return value;
}

struct PackedCase {
  Shape shape;
  WeightSpec spec;
  DType stored;
};

std::vector<PackedCase> cases() {
  std::vector<PackedCase> all;
  for (const int bits : {2, 3, 4, 5, 6, 8})
    for (const Symmetry symmetry : {Symmetry::symmetric, Symmetry::asymmetric})
      for (const DType stored : {DType::f16, DType::bf16, DType::f32})
        for (const auto& [shape, group] :
             {std::pair<Shape, std::int64_t>{{7, 15}, 5}, {{7, 15}, -1}, {{33, 1}, -1}, {{1, 33}, 1}, {{32, 64}, 32}})
          all.push_back({shape, {bits, group, symmetry}, stored});
  return all;
}

void write_layer(Context& ctx, const std::filesystem::path& folder, const HardWeight& hard, DType stored) {
  const auto format = compressed_tensors_format();
  const LinearSpec spec{hard.spec, {}};
  ShardWriter shards(folder, format->tensors("x", hard.codes.shape(), spec, stored), 1 << 30);
  format->write(ctx, shards, "x", hard, spec, stored);
  shards.finish();
}

TEST(Packing, EveryFieldStandsWhereTheFormatSaysAndDequantisesToTheSameBits) {
  const auto ctx = cpu::open(1);
  Rng rng(11);
  for (const PackedCase& c : cases()) {
    SCOPED_TRACE(concat(c.shape, " ", c.spec.bits, " bits, group ", c.spec.group_size, ", ", int(c.spec.symmetry), " ",
                        c.stored));
    const TempFolder folder;
    const HardWeight hard = random_hard_weight(*ctx, rng, c.shape, c.spec, c.stored, DType::f32);
    write_layer(*ctx, folder.path(), hard, c.stored);
    const SafetensorsFile file(folder / "model.safetensors");
    const std::int64_t out = c.shape[0], in = c.shape[1], groups = hard.scale.size(1);
    const int bits = c.spec.bits;
    const bool is_symmetric = c.spec.symmetry == Symmetry::symmetric;
    ASSERT_EQ(file.tensors().size(), is_symmetric ? 3u : 4u);
    const std::int64_t row_words = (in * bits + 31) / 32, column_words = (out * bits + 31) / 32;
    EXPECT_EQ(file.info("x.weight_packed").shape, (Shape{out, row_words}));
    EXPECT_EQ(file.info("x.weight_packed").dtype, DType::i32);
    EXPECT_EQ(file.info("x.weight_scale").shape, (Shape{out, groups}));
    EXPECT_EQ(file.info("x.weight_scale").dtype, c.stored);
    EXPECT_EQ(read<std::int64_t>(file, "x.weight_shape"), (std::vector<std::int64_t>{out, in}));
    const auto packed = read<std::uint32_t>(file, "x.weight_packed");
    std::vector<std::uint32_t> zeros;
    if (!is_symmetric) {
      EXPECT_EQ(file.info("x.weight_zero_point").shape, (Shape{column_words, groups}));
      zeros = read<std::uint32_t>(file, "x.weight_zero_point");
    }

    const auto codes = to_host<std::uint8_t>(*ctx, hard.codes);
    const auto zero_points = to_host<float>(*ctx, hard.zero);
    const auto w_hat = to_host<float>(*ctx, dequantise(*ctx, hard, c.stored, DType::f32));
    const auto wide =
        c.stored == DType::f32 ? read<std::uint32_t>(file, "x.weight_scale") : std::vector<std::uint32_t>();
    const auto narrow =
        c.stored == DType::f32 ? std::vector<std::uint16_t>() : read<std::uint16_t>(file, "x.weight_scale");
    std::int64_t wrong_codes = 0, wrong_zeros = 0, wrong_weights = 0;
    for (std::int64_t r = 0; r < out; ++r) {
      const std::vector<std::uint32_t> row(packed.begin() + r * row_words, packed.begin() + (r + 1) * row_words);
      for (std::int64_t column = 0; column < in; ++column) {
        const std::int64_t group = column / (in / groups), g = r * groups + group;
        std::vector<std::uint32_t> stream;
        for (std::int64_t word = 0; !is_symmetric && word < column_words; ++word)
          stream.push_back(zeros[std::size_t(word * groups + group)]);
        const int q = field(row, column, bits), z = is_symmetric ? 1 << (bits - 1) : field(stream, r, bits);
        const float scale = as_float(wide.empty() ? narrow[std::size_t(g)] : wide[std::size_t(g)], c.stored);
        const float w = rounded(float(q - z) * scale, c.stored);
        const std::size_t i = std::size_t(r * in + column);
        wrong_codes += q != codes[i];
        wrong_zeros += float(z) != zero_points[std::size_t(g)];
        wrong_weights += std::bit_cast<std::uint32_t>(w) != std::bit_cast<std::uint32_t>(w_hat[i]);
      }
      for (std::int64_t bit = in * bits; bit < row_words * 32; ++bit)
        ASSERT_EQ(row[std::size_t(bit / 32)] >> (bit % 32) & 1u, 0u) << "padding";
    }
    EXPECT_EQ(wrong_codes, 0);
    EXPECT_EQ(wrong_zeros, 0);
    EXPECT_EQ(wrong_weights, 0);
  }
}

TEST(Packing, WeightsForIntegerProductsAreSignedBytes) {
  const auto ctx = cpu::open(1);
  Rng rng(13);
  const TempFolder folder;
  const LinearSpec spec{{8, -1, Symmetry::symmetric}, {8, Symmetry::symmetric}};
  const HardWeight hard = random_hard_weight(*ctx, rng, {7, 15}, spec.weight, DType::bf16, DType::f32);
  const auto format = compressed_tensors_format();
  ShardWriter shards(folder.path(), format->tensors("x", {7, 15}, spec, DType::bf16), 1 << 20);
  format->write(*ctx, shards, "x", hard, spec, DType::bf16);
  shards.finish();
  const SafetensorsFile file(folder / "model.safetensors");
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.info("x.weight").dtype, DType::i8);
  EXPECT_EQ(file.info("x.weight").shape, (Shape{7, 15}));
  EXPECT_EQ(file.info("x.weight_scale").shape, (Shape{7, 1}));
  const auto codes = to_host<std::uint8_t>(*ctx, hard.codes);
  const auto written = read<std::int8_t>(file, "x.weight");
  for (std::size_t i = 0; i < codes.size(); ++i) ASSERT_EQ(int(written[i]), int(codes[i]) - 128);
}

// Three-bit codes 0, 1, ..., 7, 0, ... of one row, written out by hand: code 10 (2) and code 21 (5) straddle words.
TEST(Packing, ThreeBitsByHand) {
  const auto ctx = cpu::open(1);
  const TempFolder folder;
  std::vector<std::uint8_t> codes(32);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = std::uint8_t(i % 8);
  const HardWeight hard{{3, -1, Symmetry::symmetric},
                        from_host<std::uint8_t>(*ctx, {1, 32}, DType::u8, codes),
                        full(*ctx, {1, 1}, DType::f32, 0.5),
                        full(*ctx, {1, 1}, DType::f32, 4)};
  write_layer(*ctx, folder.path(), hard, DType::f16);
  const SafetensorsFile file(folder / "model.safetensors");
  // Eight codes are the 24 bits 0xfac688.
  EXPECT_EQ(read<std::uint32_t>(file, "x.weight_packed"),
            (std::vector<std::uint32_t>{0x88fac688, 0xc688fac6, 0xfac688fa}));
}

TEST(Packing, GridsThatTheFormatCannotHoldAreRefused) {
  const auto ctx = cpu::open(1);
  Rng rng(12);
  const TempFolder folder;
  const auto text = [&](const char* part, double value, Symmetry symmetry) {
    HardWeight hard = random_hard_weight(*ctx, rng, {4, 8}, {4, -1, symmetry}, DType::f16, DType::f32);
    (std::string(part) == "zero" ? hard.zero : hard.scale) = full(*ctx, {4, 1}, DType::f32, value);
    return error_text([&] { write_layer(*ctx, folder.path(), hard, DType::f16); }, ErrorKind::failure);
  };
  EXPECT_EQ(text("zero", 16, Symmetry::asymmetric), "export: x: found zero point 16 in a grid of 4 bits");
  EXPECT_EQ(text("zero", -1, Symmetry::asymmetric), "export: x: found zero point -1 in a grid of 4 bits");
  EXPECT_EQ(text("zero", 1.5, Symmetry::asymmetric), "export: x: found zero point 1.5 in a grid of 4 bits");
  EXPECT_EQ(text("zero", std::nan(""), Symmetry::asymmetric), "export: x: found zero point nan in a grid of 4 bits");
  EXPECT_EQ(text("zero", 7, Symmetry::symmetric), "export: x: found zero point 7 in a grid of 4 bits");
  EXPECT_EQ(text("scale", 1e-12, Symmetry::symmetric), "export: x.weight_scale is not exact in f16");
}

}  // namespace
}  // namespace cbq
