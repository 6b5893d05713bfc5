// A run of random blocks in a folder of its own, written in any format, and what the folder must hold then.
#pragma once

#include <gtest/gtest.h>

#include "cpu/open.h"
#include "quant/export.h"
#include "tests/tiny_model.h"

namespace cbq {

inline constexpr std::int64_t kShardBytes = 1 << 30;
inline const Fingerprint kRun{{{"wbits", 4}}, "m", "d", "compressed-tensors"};

inline bool same_span(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::ranges::equal(a, b);
}

// A run whose blocks are random, in a folder of its own.
struct Exported {
  Exported(Context& ctx_, const TinyModel& tiny, const std::function<LinearSpec(LinearRole, std::int64_t)>& spec,
           ActivationSpec kv_cache = {})
      : ctx(ctx_),
        config(write_tiny_model(ctx, temp / "model", tiny)),
        source(ctx, temp / "model"),
        store(temp / "out", kRun) {
    Rng rng(21);
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      specs.push_back(uniform_spec(config, {}));
      for (const LinearRole role : linear_roles(config.family)) specs.back()[std::size_t(role)] = spec(role, layer);
      blocks.push_back(random_hard_block(ctx, rng, config, specs.back(), DType::f32));
      blocks.back().kv_cache = kv_cache;
      store.save_block(ctx, layer, blocks.back(), config.dtype);
    }
  }

  std::filesystem::path output() const { return temp / "out"; }
  void write(Export format) {
    export_model(ctx, finished_blocks(ctx, source, store, specs), format, output(), kShardBytes);
  }
  nlohmann::json config_json() const { return nlohmann::json::parse(read_file(output() / "config.json")); }

  // Every number and every setting that the folder holds, against the blocks and the source.
  void expect_whole() const {
    const Model exported(ctx, output());
    ASSERT_EQ(exported.config().layers, config.layers);
    for (std::int64_t layer = 0; layer < config.layers; ++layer) {
      SCOPED_TRACE(concat("block ", layer));
      const auto found = exported.block(layer);
      const auto expected = dense_block(ctx, config, blocks[std::size_t(layer)]);
      EXPECT_TRUE(same_weights(ctx, found->weights(), expected->weights()));
      EXPECT_EQ(found->kv_cache.bits, expected->kv_cache.bits);
      if (expected->kv_cache.bits < 16) {
        EXPECT_EQ(found->kv_cache.symmetry, expected->kv_cache.symmetry);
      }
      for (std::size_t site = 0; site < kSites; ++site) {
        const auto &a = found->activations[site], &b = expected->activations[site];
        EXPECT_EQ(a.spec.bits, b.spec.bits) << site;
        if (b.spec.bits == 16) continue;
        EXPECT_EQ(a.spec.symmetry, b.spec.symmetry) << site;
        EXPECT_TRUE(same_bits(ctx, a.factor.value, b.factor.value)) << site;
      }
    }
    for (const std::string& name : source.checkpoint().names()) {
      if (name.find(".layers.") != std::string::npos) continue;
      if (name == "lm_head.weight" && config.tied_head) {
        EXPECT_FALSE(exported.checkpoint().contains(name));
        continue;
      }
      EXPECT_EQ(exported.checkpoint().info(name).dtype, source.checkpoint().info(name).dtype) << name;
      EXPECT_TRUE(same_span(exported.checkpoint().bytes(name), source.checkpoint().bytes(name))) << name;
    }
    for (const char* name :
         {"tokenizer.json", "vocab.json", "chat_template.jinja", "LICENSE.txt", "generation_config.json"})
      EXPECT_EQ(read_file(output() / name), read_file(temp / "model" / name));
    EXPECT_FALSE(std::filesystem::exists(output() / "notes.txt"));
  }

  Context& ctx;
  TempFolder temp;
  ModelConfig config;
  Model source;
  RunStore store;
  std::vector<BlockSpec> specs;
  std::vector<HardBlock> blocks;
};

inline LinearSpec linear_spec(int bits, std::int64_t group_size, Symmetry symmetry, ActivationSpec activation = {}) {
  return {{bits, group_size, symmetry}, activation};
}

class Exporting : public ::testing::Test {
 protected:
  std::unique_ptr<Context> ctx_ = cpu::open(1);
};

// Widths by role and block, quantised activations at two sites, one of them in front of 16-bit weights, a quantised
// cache.
inline LinearSpec mixed(LinearRole role, std::int64_t layer) {
  const bool reads_mlp = site_of(role) == Site::mlp_in, reads_out = site_of(role) == Site::mlp_out;
  const ActivationSpec activation = reads_mlp   ? ActivationSpec{8, Symmetry::symmetric}
                                    : reads_out ? ActivationSpec{4, Symmetry::asymmetric}
                                                : ActivationSpec{};
  if (role == LinearRole::down) return linear_spec(layer == 0 ? 16 : 8, -1, Symmetry::symmetric, activation);
  return linear_spec(role == LinearRole::o ? 16 : layer == 0 ? 3 : 4, 4, Symmetry::asymmetric, activation);
}

}  // namespace cbq
