// GGUF files that are refused or cut short: what they have no place for, kills while one is written, damaged ones.
#include <unistd.h>

#include <chrono>
#include <cstring>

#include "models/tokenizer/tokenizer.h"
#include "tests/error_text.h"
#include "tests/gguf_run.h"
#include "tests/killed_child.h"
#include "tests/mutate.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

TEST_F(ExportGguf, StepsThatF16DoesNotHoldAreRefused) {
  GgufRun run(*ctx_, tiny(DType::bf16), linear_spec(4, -1, Symmetry::symmetric));
  auto& hard = *run.blocks[1].hard[std::size_t(LinearRole::v)];
  for (const auto& [step, text] : {std::pair(0x1p16, "65536"), std::pair(0x1p-25, "2.98023e-08")}) {
    hard.scale = full(*ctx_, hard.scale.shape(), DType::f32, step);
    EXPECT_EQ(error_text([&] { run.write(); }, ErrorKind::failure),
              concat("export: blk.1.attn_v.weight: found a step size of ", text, ", which f16 does not hold"));
    EXPECT_TRUE(fs::is_empty(run.temp / "out"));
  }
}

TEST_F(ExportGguf, WhatAFileCannotCarryIsRefused) {
  ModelConfig config{};
  config.family = Family::llama;
  config.architecture = "LlamaForCausalLM";
  config.layers = 1, config.hidden = 64, config.ffn = 96, config.heads = 4, config.kv_heads = 2, config.head_dim = 16;
  config.dtype = DType::f16;
  const auto error = [&](const LinearSpec& spec, int kv_bits = 16) {
    return error_text([&] { require_exportable({Export::gguf}, config, {uniform_spec(config, spec)}, kv_bits); });
  };
  const std::string all = "; use compressed-tensors, gptq or dense", others = "; use compressed-tensors or dense";
  for (const int bits : {2, 3, 4, 5, 6, 16}) EXPECT_EQ(error(linear_spec(bits, 32, Symmetry::asymmetric)), "no error");
  EXPECT_EQ(error(linear_spec(8, -1, Symmetry::symmetric)), "no error");
  EXPECT_EQ(error(linear_spec(8, -1, Symmetry::asymmetric)),
            "export: gguf has no place for asymmetric weights of 8 bits (model.layers.0.self_attn.q_proj)" + all);
  EXPECT_EQ(
      error(linear_spec(4, 16, Symmetry::symmetric)),
      "export: gguf has no place for groups of 16 (model.layers.0.self_attn.q_proj), only for multiples of 32 and "
      "whole rows" +
          all);
  EXPECT_EQ(error({{4, -1, Symmetry::symmetric}, {8, Symmetry::symmetric}}),
            "export: gguf has no place for activations of 8 bits (model.layers.0.self_attn.q_proj)" + others);
  EXPECT_EQ(error(linear_spec(4, -1, Symmetry::symmetric), 8), "export: gguf has no place for a cache of 8 bits" + all);
  config.dtype = DType::f64;
  EXPECT_EQ(error(linear_spec(4, -1, Symmetry::symmetric)), "export: gguf has no place for float64 tensors" + all);
  config.family = Family::opt;
  config.architecture = "OPTForCausalLM";
  EXPECT_EQ(error(linear_spec(4, -1, Symmetry::symmetric)),
            "export: gguf has no place for the architecture OPTForCausalLM" + all);
}

// A child writes without end and is killed at a random moment: a file of that name is whole.
TEST_F(ExportGguf, AKillLeavesNoFileThatLooksWholeAndIsNot) {
  const GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, 32, Symmetry::symmetric));
  const auto delay_seed = static_cast<std::uint64_t>(getpid());
  SCOPED_TRACE(concat("delay seed ", delay_seed));
  Rng delays(delay_seed);
  int absent = 0;
  for (int round = 0; round < 30; ++round) {
    test::kill_while(std::chrono::microseconds(1000 + delays.below(40000)), [&] {
      fs::remove(run.file());
      run.write();
    });
    if (HasFatalFailure()) return;
    if (!fs::exists(run.file())) {
      ++absent;
      continue;
    }
    const Model found(*ctx_, run.file());
    EXPECT_TRUE(
        same_bits(*ctx_, found.block(1)->weights()[LinearRole::down].weight.value, run.expected(1, LinearRole::down)));
  }
  EXPECT_GT(absent, 0) << "no kill hit an export";
}

TEST_F(ExportGguf, ABlockOfAnotherRunIsRefused) {
  GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, 32, Symmetry::symmetric));
  run.specs[1][std::size_t(LinearRole::up)].weight.bits = 3;
  EXPECT_EQ(error_text([&] { run.write(); }, ErrorKind::failure),
            "export: model.layers.1.mlp.up_proj: the integers in the store do not belong to this run");
  EXPECT_FALSE(fs::exists(run.file()));
}

TEST_F(ExportGguf, StepsThatAreNoNumbersAreRefused) {
  const GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, 32, Symmetry::symmetric));
  run.write();
  std::string file = read_file(run.file());
  const auto begin = std::size_t(GgufFile(run.file()).tensor("blk.1.ffn_down.weight").begin);
  for (const auto& [bits, what] : {std::pair<std::uint16_t, const char*>(0x7e00, "NaN"), {0x7c00, "infinity"}}) {
    std::memcpy(file.data() + begin + 18, &bits, sizeof bits);  // d of the second block of 32
    write_file(run.temp / "damaged.gguf", file);
    const Model model(*ctx_, run.temp / "damaged.gguf");
    EXPECT_NE(error_text([&] { model.block_weights(1); }).find("expected finite numbers, found 32 NaN"),
              std::string::npos)
        << what;
  }
}

// Headers with one to four damages: the model with its tokenizer and first block opens or is refused.
TEST_F(ExportGguf, DamagedModelsOpenOrAreRefused) {
  const GgufRun run(*ctx_, tiny(DType::f16), linear_spec(4, 32, Symmetry::symmetric));
  run.write();
  const std::string whole = read_file(run.file());
  const auto header_bytes = std::size_t(GgufFile(run.file()).tensor("token_embd.weight").begin);
  const fs::path damaged = run.temp / "damaged.gguf";
  int opened = 0, refused = 0;
  for (int i = 0; i < 2000; ++i) {
    test::Rng rng{std::uint64_t(i)};
    // A window of the header, so that damage meets every part of it and not only the long list of tokens.
    const std::size_t begin = i % 2 ? rng.below(1000) : rng.below(header_bytes - 200);
    write_file(damaged,
               whole.substr(0, begin) + test::mutate(whole.substr(begin, 200), rng) + whole.substr(begin + 200));
    try {
      const Model model(*ctx_, damaged);
      model.block_weights(0);
      Tokenizer::open(damaged)->encode("Once upon a time");
      ++opened;
    } catch (const Error& error) {
      ++refused;
      ASSERT_EQ(error.kind(), ErrorKind::bad_input) << "case " << i << ": " << error.what();
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << "case " << i << ": " << error.what();
    } catch (const std::exception& error) {
      FAIL() << "case " << i << ": " << error.what();
    }
  }
  EXPECT_GT(opened, 50);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace cbq
