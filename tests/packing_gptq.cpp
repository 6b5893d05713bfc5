// The tensors of a GPTQ export against the unpacking that AutoGPTQ and GPTQModel do, and what the format refuses.
#include <gtest/gtest.h>

#include "cpu/open.h"
#include "quant/export.h"
#include "quant/export_format.h"
#include "tests/error_text.h"
#include "tests/packed_file.h"
#include "tests/tiny_model.h"

namespace cbq {
namespace {

// Code i of a stream whose word w is word(w). 2, 4 and 8 bits: 32/b whole codes a word. 3 bits: 32 codes in three
// words, of which 10 and 21 are in two.
template <class Word>
int code_of(const Word& word, std::int64_t i, int bits) {
  const auto bit_field = [&](std::int64_t w, std::int64_t from, int count) {
    return int(word(w) >> from & ((1u << count) - 1));
  };
  if (bits != 3) return bit_field(i / (32 / bits), i % (32 / bits) * bits, bits);
  const std::int64_t w = i / 32 * 3, k = i % 32;
  if (k < 10) return bit_field(w, 3 * k, 3);
  if (k == 10) return bit_field(w, 30, 2) | bit_field(w + 1, 0, 1) << 2;
  if (k < 21) return bit_field(w + 1, 1 + 3 * (k - 11), 3);
  if (k == 21) return bit_field(w + 1, 31, 1) | bit_field(w + 2, 0, 2) << 1;
  return bit_field(w + 2, 2 + 3 * (k - 22), 3);
}

void write_layer(Context& ctx, const std::filesystem::path& folder, const HardWeight& hard, DType stored) {
  const LinearSpec spec{hard.spec, {}};
  BlockSpec block;
  block.fill(spec);
  const auto format = gptq_format({block});
  ShardWriter shards(folder, format->tensors("x", hard.codes.shape(), spec, stored), 1 << 30);
  format->write(ctx, shards, "x", hard, spec, stored);
  shards.finish();
}

struct GptqCase {
  Shape shape;
  WeightSpec spec;
};

void expect_unpacks(Context& ctx, Rng& rng, const GptqCase& c, DType stored) {
  SCOPED_TRACE(
      concat(c.shape, " ", c.spec.bits, " bits, group ", c.spec.group_size, ", ", int(c.spec.symmetry), " ", stored));
  const TempFolder folder;
  const HardWeight hard = random_hard_weight(ctx, rng, c.shape, c.spec, stored, DType::f32);
  write_layer(ctx, folder.path(), hard, stored);
  const SafetensorsFile file(folder / "model.safetensors");
  const std::int64_t out = c.shape[0], in = c.shape[1], groups = hard.scale.size(1);
  const int bits = c.spec.bits;
  const bool is_v1 = c.spec.symmetry == Symmetry::symmetric && (bits == 4 || bits == 8);
  const std::int64_t row_words = (out * bits + 31) / 32;
  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(file.info("x.qweight").shape, (Shape{(in * bits + 31) / 32, out}));
  EXPECT_EQ(file.info("x.qzeros").shape, (Shape{groups, row_words}));
  EXPECT_EQ(file.info("x.scales").shape, (Shape{groups, out}));
  EXPECT_EQ(file.info("x.scales").dtype, DType::f16);
  const auto weights = read<std::uint32_t>(file, "x.qweight"), zeros = read<std::uint32_t>(file, "x.qzeros");
  const auto scales = read<std::uint16_t>(file, "x.scales");
  const auto group_of = read<std::int32_t>(file, "x.g_idx");
  ASSERT_EQ(std::ssize(group_of), in);

  const auto codes = to_host<std::uint8_t>(ctx, hard.codes);
  const auto w_hat = to_host<float>(ctx, dequantise(ctx, hard, stored, DType::f32));
  std::int64_t wrong_codes = 0, wrong_weights = 0;
  for (std::int64_t r = 0; r < out; ++r)
    for (std::int64_t column = 0; column < in; ++column) {
      const std::int64_t g = group_of[std::size_t(column)];
      ASSERT_EQ(g, column / (in / groups));
      const int q = code_of([&](std::int64_t w) { return weights.at(std::size_t(w * out + r)); }, column, bits);
      const int z = code_of([&](std::int64_t w) { return zeros.at(std::size_t(g * row_words + w)); }, r, bits) + is_v1;
      const float w = rounded(float(q - z) * f16_to_f32(scales[std::size_t(g * out + r)]), stored);
      const auto i = std::size_t(r * in + column);
      wrong_codes += q != codes[i];
      wrong_weights += std::bit_cast<std::uint32_t>(w) != std::bit_cast<std::uint32_t>(w_hat[i]);
    }
  EXPECT_EQ(wrong_codes, 0);
  EXPECT_EQ(wrong_weights, 0);
}

TEST(PackingGptq, UnpacksToTheSameBits) {
  const auto ctx = cpu::open(1);
  Rng rng(11);
  for (const int bits : {2, 3, 4, 8})
    for (const Symmetry symmetry : {Symmetry::symmetric, Symmetry::asymmetric})
      for (const DType stored : {DType::f16, DType::bf16, DType::f32})
        for (const auto& [shape, group] : {std::pair<Shape, std::int64_t>{{7, 15}, 5},
                                           {{7, 15}, -1},
                                           {{33, 1}, -1},
                                           {{1, 33}, 1},
                                           {{32, 64}, 32},
                                           {{70, 130}, 65}})
          expect_unpacks(*ctx, rng, {shape, {bits, group, symmetry}}, stored);
}

// The words that GPTQ's symmetric zero points have in every v1 file of its own.
TEST(PackingGptq, SymmetricZeroPointsByHand) {
  const auto ctx = cpu::open(1);
  Rng rng(12);
  for (const auto& [bits, word] : {std::pair(4, 0x77777777u), std::pair(8, 0x7f7f7f7fu)}) {
    const TempFolder folder;
    write_layer(*ctx, folder.path(),
                random_hard_weight(*ctx, rng, {32, 8}, {bits, -1, Symmetry::symmetric}, DType::f16, DType::f32),
                DType::f16);
    const SafetensorsFile file(folder / "model.safetensors");
    for (const std::uint32_t zeros : read<std::uint32_t>(file, "x.qzeros")) EXPECT_EQ(zeros, word);
  }
}

TEST(PackingGptq, StepSizesThatF16CannotHoldAreRefused) {
  const auto ctx = cpu::open(1);
  Rng rng(13);
  const TempFolder folder;
  HardWeight hard = random_hard_weight(*ctx, rng, {4, 8}, {4, -1, Symmetry::symmetric}, DType::f32, DType::f32);
  hard.scale = full(*ctx, {4, 1}, DType::f32, 1.0f / 3);
  EXPECT_EQ(error_text([&] { write_layer(*ctx, folder.path(), hard, DType::f32); }, ErrorKind::failure),
            "export: x.scales is not exact in f16");
}

class GptqHolds : public ::testing::Test {
 protected:
  // Which error a run would begin with.
  std::string refusal(const LinearSpec& spec) {
    const auto ctx = cpu::open(1);
    const TempFolder folder;
    const ModelConfig config = write_tiny_model(*ctx, folder / "model", {});
    const std::vector<BlockSpec> specs(std::size_t(config.layers), uniform_spec(config, spec));
    return error_text([&] { require_exportable({Export::dense, Export::gptq}, config, specs, 16); });
  }
};

TEST_F(GptqHolds, WidthsAndActivations) {
  for (const int bits : {2, 4, 8, 16})
    for (const Symmetry symmetry : {Symmetry::symmetric, Symmetry::asymmetric})
      EXPECT_EQ(refusal({{bits, -1, symmetry}, {}}), "no error");
  const std::string first = "model.layers.0.self_attn.q_proj", others = "; use compressed-tensors, dense or gguf";
  for (const int bits : {5, 6})
    EXPECT_EQ(refusal({{bits, -1, Symmetry::symmetric}, {}}),
              concat("export: gptq has no place for weights of ", bits, " bits (", first, ")", others));
  EXPECT_EQ(
      refusal({{4, -1, Symmetry::symmetric}, {8, Symmetry::symmetric}}),
      concat("export: gptq has no place for activations of 8 bits (", first, "); use compressed-tensors or dense"));
  EXPECT_EQ(refusal({{3, -1, Symmetry::symmetric}, {}}),
            concat("export: gptq has no place for weights of 3 bits whose sides are no multiples of 32 (", first,
                   ", (36, 36))", others));
}

}  // namespace
}  // namespace cbq
