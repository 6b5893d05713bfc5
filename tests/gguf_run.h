// A model of family llama, a run of it whose blocks are random, and the GGUF file of that run.
#pragma once

#include <gtest/gtest.h>

#include "cpu/open.h"
#include "quant/export_gguf.h"
#include "tests/tiny_model.h"

namespace cbq {

inline constexpr std::int64_t kVocab = 500;  // more than the tokenizer has

inline TinyModel tiny(DType dtype) {
  return {.dtype = dtype, .hidden = 64, .ffn = 128, .heads = 4, .kv_heads = 2, .vocab = kVocab};
}

inline LinearSpec linear_spec(int bits, std::int64_t group_size, Symmetry symmetry) {
  return {{bits, group_size, symmetry}, {}};
}

struct GgufRun {
  GgufRun(Context& ctx_, const TinyModel& shape, const LinearSpec& spec) : ctx(ctx_) {
    write_tiny_model(ctx, temp / "model", shape);
    std::filesystem::remove(temp / "model/tokenizer.json");
    write_file(temp / "model/tokenizer.model", read_file("tests/data/tokenizers/tiny-sp.model"));
    source = std::make_unique<Model>(ctx, temp / "model");
    Rng rng(21);
    for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
      specs.push_back(uniform_spec(source->config(), spec));
      blocks.push_back(random_hard_block(ctx, rng, source->config(), specs.back(), DType::f32));
    }
    std::filesystem::create_directories(temp / "out");
  }

  std::filesystem::path file() const { return temp / "out/model.gguf"; }
  void write() const {
    const auto block = [&](std::int64_t layer) { return blocks[std::size_t(layer)]; };
    export_gguf(ctx, {source->checkpoint(), source->config(), specs, block}, file());
  }
  Tensor expected(std::int64_t layer, LinearRole role) const {
    return dense_block(ctx, source->config(), blocks[std::size_t(layer)])->weights()[role].weight.value;
  }

  Context& ctx;
  TempFolder temp;
  std::unique_ptr<Model> source;
  std::vector<BlockSpec> specs;
  std::vector<HardBlock> blocks;
};

class ExportGguf : public ::testing::Test {
 protected:
  std::unique_ptr<Context> ctx_ = cpu::open(1);
};

}  // namespace cbq
