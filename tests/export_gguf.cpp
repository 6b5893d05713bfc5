// GGUF files of quantised models: read back they are the hardened blocks bit for bit wherever docs/gguf.md says so.
#include <cmath>
#include <cstring>

#include "models/gguf.h"
#include "models/tokenizer/tokenizer.h"
#include "quant/gguf_scheme.h"
#include "tests/error_text.h"
#include "tests/gguf_run.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

struct Case {
  int bits;
  std::int64_t group_size;
  Symmetry symmetry;
  GgmlType type;
};

TEST_F(ExportGguf, LosslessSchemesAreReadBackBitForBit) {
  constexpr Symmetry sym = Symmetry::symmetric, asym = Symmetry::asymmetric;
  const Case cases[] = {{2, -1, sym, GgmlType::q4_0},  {2, 64, asym, GgmlType::q4_0}, {3, 32, sym, GgmlType::q4_0},
                        {3, -1, asym, GgmlType::q4_0}, {4, 32, sym, GgmlType::q4_0},  {4, 64, sym, GgmlType::q4_0},
                        {4, -1, sym, GgmlType::q4_0},  {5, 64, asym, GgmlType::q8_0}, {6, -1, sym, GgmlType::q8_0},
                        {8, 32, sym, GgmlType::q8_0},  {8, -1, sym, GgmlType::q8_0}};
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (const Case& c : cases) {
      SCOPED_TRACE(concat(dtype, " ", c.bits, " bits, groups of ", c.group_size, c.symmetry == sym ? " sym" : " asym"));
      const GgufRun run(*ctx_, tiny(dtype), linear_spec(c.bits, c.group_size, c.symmetry));
      run.write();
      const Model found(*ctx_, run.temp / "out");
      for (std::int64_t layer = 0; layer < 2; ++layer)
        EXPECT_TRUE(same_weights(*ctx_, found.block(layer)->weights(),
                                 dense_block(*ctx_, run.source->config(), run.blocks[std::size_t(layer)])->weights()));
      EXPECT_TRUE(same_bits(*ctx_, found.outer().embed_tokens.value, run.source->outer().embed_tokens.value));
      EXPECT_TRUE(same_bits(*ctx_, found.outer().lm_head.value, run.source->outer().lm_head.value));
      EXPECT_TRUE(same_norm(*ctx_, found.outer().final_norm, run.source->outer().final_norm));
      EXPECT_EQ(GgufFile(run.file()).tensor("blk.1.ffn_down.weight").type, c.type);
      EXPECT_TRUE(found.checkpoint().is_quantised());
      EXPECT_EQ(found.checkpoint().scheme("model.layers.0.mlp.up_proj").wbits, c.type == GgmlType::q8_0 ? 8 : 4);
    }
}

TEST_F(ExportGguf, RowsOfNoWholeBlocksAndUnquantisedLayersStayDense) {
  TinyModel shape = tiny(DType::f16);
  shape.ffn = 44;
  GgufRun run(*ctx_, shape, linear_spec(4, -1, Symmetry::symmetric));
  run.write();
  const GgufFile file(run.file());
  EXPECT_EQ(file.tensor("blk.0.ffn_down.weight").type, GgmlType::f16);
  EXPECT_EQ(file.tensor("blk.0.ffn_up.weight").type, GgmlType::q4_0);
  EXPECT_EQ(file.tensor("blk.0.attn_norm.weight").type, GgmlType::f32);
  EXPECT_EQ(file.tensor("token_embd.weight").type, GgmlType::f16);
  const Model found(*ctx_, run.file());
  EXPECT_TRUE(
      same_bits(*ctx_, found.block(0)->weights()[LinearRole::down].weight.value, run.expected(0, LinearRole::down)));

  const GgufRun plain(*ctx_, tiny(DType::bf16), linear_spec(16, -1, Symmetry::symmetric));
  plain.write();
  const Model dense(*ctx_, plain.file());
  EXPECT_FALSE(dense.checkpoint().is_quantised());
  EXPECT_TRUE(same_weights(*ctx_, dense.block(1)->weights(),
                           dense_block(*ctx_, plain.source->config(), plain.blocks[1])->weights()));
}

// m = -z s is rounded to f16, with a relative error of at most 2^-11, and the weight once more.
TEST_F(ExportGguf, AsymmetricFourBitsAreOffByTheRoundedOffset) {
  const GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, 32, Symmetry::asymmetric));
  run.write();
  EXPECT_EQ(GgufFile(run.file()).tensor("blk.1.ffn_down.weight").type, GgmlType::q4_1);
  const Model found(*ctx_, run.file());
  for (const LinearRole role : linear_roles(Family::llama)) {
    const HardWeight& hard = *run.blocks[0].hard[std::size_t(role)];
    const auto a = to_host<float>(*ctx_, found.block(0)->weights()[role].weight.value),
               b = to_host<float>(*ctx_, run.expected(0, role)), s = to_host<float>(*ctx_, hard.scale);
    const double largest = *std::max_element(s.begin(), s.end()) * 15;  // of z s and q s
    double error = 0;
    for (std::size_t i = 0; i < a.size(); ++i) error = std::max(error, double(std::abs(a[i] - b[i])));
    EXPECT_LE(error, largest * 0x1p-10) << int(role);
    EXPECT_GT(error, 0) << "exact after all: say so in docs/gguf.md";
  }
}

// Rotary pairs (i, i + D/2) become neighbours, and the rows of the file are those.
TEST_F(ExportGguf, RowsOfQueriesAndKeysArePermuted) {
  std::vector<std::int64_t> rows;
  for (std::int64_t r = 0; r < 16; ++r) rows.push_back(hf_row(r, 8));
  EXPECT_EQ(rows, (std::vector<std::int64_t>{0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15}));

  const GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, -1, Symmetry::symmetric));
  run.write();
  const GgufFile file(run.file());
  for (const auto& [name, role, second] :
       {std::tuple("blk.0.attn_q.weight", LinearRole::q, 8), std::tuple("blk.0.attn_k.weight", LinearRole::k, 8),
        std::tuple("blk.0.attn_v.weight", LinearRole::v, 1)}) {
    const HardWeight& hard = *run.blocks[0].hard[std::size_t(role)];
    const auto codes = to_host<std::uint8_t>(*ctx_, hard.codes);
    const auto scales = to_host<float>(*ctx_, hard.scale);
    // Row 1 of the file, its second block.
    const GgmlBlock block = unpack_block(GgmlType::q4_0, file.bytes(name).subspan(3 * 18, 18));
    EXPECT_EQ(f16_to_f32(block.d), scales[std::size_t(second)]) << name;
    for (int i = 0; i < 32; ++i)
      EXPECT_EQ(block.codes[std::size_t(i)], codes[std::size_t(second * 64 + 32 + i)]) << name;
  }
  const auto bias = to_host<float>(*ctx_, run.blocks[0].weights[LinearRole::k].bias.value);
  float second = 0;
  std::memcpy(&second, file.bytes("blk.0.attn_k.bias").data() + 4, 4);
  EXPECT_EQ(second, bias[8]);
}

TEST_F(ExportGguf, MetadataSaysWhatTheConfigSaid) {
  TinyModel shape = tiny(DType::f16);
  shape.tied = true;
  GgufRun run(*ctx_, shape, linear_spec(4, 32, Symmetry::symmetric));
  nlohmann::json json = nlohmann::json::parse(read_file(run.temp / "model/config.json"));
  json["rope_theta"] = 500000.0;
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 64}};
  json["eos_token_id"] = 2;
  write_file(run.temp / "model/config.json", json.dump());
  run.source = std::make_unique<Model>(*ctx_, run.temp / "model");
  run.write();
  const GgufFile file(run.file());
  EXPECT_FALSE(file.contains("output.weight"));
  EXPECT_EQ(*file.find<std::string>("general.architecture"), "llama");
  EXPECT_EQ(*file.find<std::int64_t>("general.file_type"), 2);
  EXPECT_EQ(*file.find<std::int64_t>("llama.attention.head_count_kv"), 2);
  EXPECT_EQ(*file.find<std::int64_t>("llama.vocab_size"), kVocab);

  const ModelConfig &a = run.source->config(), b = read_model_config(run.file());
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(std::tuple(a.layers, a.hidden, a.ffn, a.heads, a.kv_heads, a.head_dim, a.vocab, a.max_positions),
            std::tuple(b.layers, b.hidden, b.ffn, b.heads, b.kv_heads, b.head_dim, b.vocab, b.max_positions));
  EXPECT_EQ(std::tuple(a.norm_eps, a.rope_theta, a.tied_head, a.qkv_bias, a.o_bias, a.mlp_bias, a.dtype),
            std::tuple(b.norm_eps, b.rope_theta, b.tied_head, b.qkv_bias, b.o_bias, b.mlp_bias, b.dtype));
  EXPECT_EQ(a.eos, b.eos);
  for (std::int64_t i = 0; i < a.head_dim / 2; ++i)
    EXPECT_NEAR(rope_frequency(b, i) / rope_frequency(a, i), 1, 1e-7) << i;
  EXPECT_LT(rope_frequency(a, 7) * 7.9, std::pow(500000.0, -14.0 / 16)) << "the scaling does something";
}

TEST_F(ExportGguf, Qwen2IsNotPermuted) {
  GgufRun run(*ctx_, tiny(DType::f16), linear_spec(8, -1, Symmetry::symmetric));
  nlohmann::json json = nlohmann::json::parse(read_file(run.temp / "model/config.json"));
  json["architectures"] = {"Qwen2ForCausalLM"};
  write_file(run.temp / "model/config.json", json.dump());
  run.source = std::make_unique<Model>(*ctx_, run.temp / "model");
  run.write();
  const Model found(*ctx_, run.file());
  EXPECT_EQ(found.config().architecture, "Qwen2ForCausalLM");
  const HardWeight& hard = *run.blocks[0].hard[std::size_t(LinearRole::q)];
  const GgmlBlock block =
      unpack_block(GgmlType::q8_0, GgufFile(run.file()).bytes("blk.0.attn_q.weight").subspan(2 * 34, 34));
  EXPECT_EQ(f16_to_f32(block.d), to_host<float>(*ctx_, hard.scale)[1]);
  EXPECT_TRUE(same_bits(*ctx_, found.block(0)->weights()[LinearRole::q].weight.value, run.expected(0, LinearRole::q)));
}

TEST_F(ExportGguf, AFolderOpensByItsOnlyFile) {
  const GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, 32, Symmetry::symmetric));
  run.write();
  EXPECT_EQ(gguf_file(run.temp / "out"), run.file());
  EXPECT_EQ(gguf_file(run.temp / "model"), std::nullopt);
  EXPECT_EQ(Tokenizer::open(run.temp / "out")->encode("a cat"), Tokenizer::open(run.temp / "model")->encode("a cat"));
  write_file(run.temp / "out/other.gguf", "");
  EXPECT_EQ(error_text([&] { read_model_config(run.temp / "out"); }),
            (run.temp / "out").string() + ": expected one .gguf file, found 2; name the file");
}

}  // namespace
}  // namespace cbq
