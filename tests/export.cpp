// Exported folders: read back they are the hardened blocks bit for bit; what surrounds the blocks is the source's.
#include "quant/export.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "cpu/open.h"
#include "quant/export_format.h"
#include "tests/error_text.h"
#include "tests/tiny_model.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::int64_t kShardBytes = 1 << 30;
constexpr Export kFolders[] = {Export::compressed_tensors, Export::gptq, Export::dense};
const Fingerprint kRun{{{"wbits", 4}}, "m", "d", "compressed-tensors"};

bool same_span(std::span<const std::byte> a, std::span<const std::byte> b) {
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

  fs::path output() const { return temp / "out"; }
  void write(Export format) {
    export_model(ctx, finished_blocks(ctx, source, store, specs), format, output(), kShardBytes);
  }
  json config_json() const { return json::parse(read_file(output() / "config.json")); }

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
    EXPECT_FALSE(fs::exists(output() / "notes.txt"));
  }

  Context& ctx;
  TempFolder temp;
  ModelConfig config;
  Model source;
  RunStore store;
  std::vector<BlockSpec> specs;
  std::vector<HardBlock> blocks;
};

LinearSpec linear_spec(int bits, std::int64_t group_size, Symmetry symmetry, ActivationSpec activation = {}) {
  return {{bits, group_size, symmetry}, activation};
}

class Exporting : public ::testing::Test {
 protected:
  std::unique_ptr<Context> ctx_ = cpu::open(1);
};

TEST_F(Exporting, ReadBackBitForBit) {
  for (const Family family : {Family::llama, Family::opt})
    for (const DType dtype : {DType::f16, DType::bf16, DType::f32})
      for (const int bits : {2, 3, 8})
        for (const Symmetry symmetry : {Symmetry::symmetric, Symmetry::asymmetric}) {
          SCOPED_TRACE(concat(int(family), " ", dtype, " ", bits, " bits ", int(symmetry)));
          Exported run(*ctx_, {family, dtype, symmetry == Symmetry::symmetric},
                       [&](LinearRole, std::int64_t) { return linear_spec(bits, bits == 3 ? 4 : -1, symmetry); });
          for (const Export format : kFolders) {
            SCOPED_TRACE(export_format(format).name);
            run.write(format);
            run.expect_whole();
            EXPECT_EQ(fs::exists(run.output() / "quantize_config.json"), format == Export::gptq);
          }
          EXPECT_FALSE(run.config_json().contains("quantization_config"));
          EXPECT_FALSE(run.config_json().contains("cbq"));
        }
}

TEST_F(Exporting, ConfigOfOneScheme) {
  Exported run(*ctx_, {Family::opt}, [](LinearRole, std::int64_t) { return linear_spec(4, 4, Symmetry::symmetric); });
  run.write(Export::compressed_tensors);
  const json config = run.config_json(), expected = json::parse(R"({
    "quant_method": "compressed-tensors", "version": "0.18.0", "format": "pack-quantized",
    "quantization_status": "compressed", "global_compression_ratio": null, "kv_cache_scheme": null,
    "ignore": ["lm_head", "model.decoder.project_in", "model.decoder.project_out"],
    "sparsity_config": {}, "transform_config": {},
    "config_groups": {"group_0": {"targets": ["Linear"], "format": "pack-quantized", "output_activations": null,
      "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 4,
                  "dynamic": false, "actorder": null},
      "input_activations": null}}})");
  EXPECT_EQ(config.at("quantization_config"), expected) << config.dump(1);
  json rest = config, source = json::parse(read_file(run.temp / "model/config.json"));
  rest.erase("quantization_config");
  source.erase("quantization_config");
  EXPECT_EQ(rest, source);
}

TEST_F(Exporting, ConfigOfIntegerProducts) {
  const LinearSpec int8 = linear_spec(8, -1, Symmetry::symmetric, {8, Symmetry::symmetric});
  Exported run(*ctx_, {Family::llama, DType::bf16}, [&](LinearRole, std::int64_t) { return int8; });
  run.write(Export::compressed_tensors);
  run.expect_whole();
  const json quantisation = run.config_json().at("quantization_config");
  EXPECT_EQ(quantisation.at("format"), "int-quantized");
  EXPECT_EQ(quantisation.at("config_groups").at("group_0").at("format"), "int-quantized");

  Exported mixed(*ctx_, {}, [&](LinearRole role, std::int64_t) {
    return role == LinearRole::down ? int8 : linear_spec(8, -1, Symmetry::asymmetric, {8, Symmetry::symmetric});
  });
  mixed.write(Export::compressed_tensors);
  mixed.expect_whole();
  EXPECT_EQ(mixed.config_json().at("quantization_config").at("format"), "mixed-precision");
}

TEST_F(Exporting, ConfigOfGptq) {
  Exported run(*ctx_, {Family::opt}, [](LinearRole role, std::int64_t layer) {
    if (layer == 1 && role == LinearRole::o) return linear_spec(16, -1, Symmetry::asymmetric);
    return linear_spec(4, role == LinearRole::down ? -1 : 4, Symmetry::symmetric);
  });
  run.write(Export::gptq);
  run.expect_whole();
  const json found = run.config_json().at("quantization_config"), expected = json::parse(R"({
    "quant_method": "gptq", "bits": 4, "group_size": 4, "sym": true, "desc_act": false, "lm_head": false,
    "checkpoint_format": "gptq", "pack_dtype": "int32", "true_sequential": false, "damp_percent": 0.01,
    "meta": {"quantizer": ["cbq:0.1.0"]},
    "dynamic": {
      "-:^model\\.decoder\\.project_in$": {}, "-:^model\\.decoder\\.project_out$": {},
      "-:^model\\.decoder\\.layers\\.1\\.self_attn\\.out_proj$": {},
      "+:^model\\.decoder\\.layers\\.0\\.fc2$": {"bits": 4, "group_size": -1, "sym": true},
      "+:^model\\.decoder\\.layers\\.1\\.fc2$": {"bits": 4, "group_size": -1, "sym": true}}})");
  EXPECT_EQ(found, expected) << found.dump(1);
  EXPECT_EQ(json::parse(read_file(run.output() / "quantize_config.json")), expected);
  Exported other(*ctx_, {}, [](LinearRole role, std::int64_t) {
    return linear_spec(role == LinearRole::q ? 3 : 4, -1, Symmetry::symmetric);
  });
  other.write(Export::gptq);
  EXPECT_EQ(other.config_json().at("quantization_config").at("checkpoint_format"), "gptq_v2");
}

// A packed folder is as good a source as the run that wrote it, whatever its format.
TEST_F(Exporting, FormatsAreMadeFromEachOther) {
  for (const Family family : {Family::llama, Family::opt})
    for (const DType dtype : {DType::f16, DType::bf16}) {
      Exported run(*ctx_, {family, dtype},
                   [](LinearRole role, std::int64_t layer) {
                     if (role == LinearRole::o) return linear_spec(16, -1, Symmetry::asymmetric);
                     return linear_spec(layer == 0 ? 4 : 2, 4,
                                        role == LinearRole::q ? Symmetry::asymmetric : Symmetry::symmetric);
                   },
                   {8, Symmetry::asymmetric});
      run.write(Export::compressed_tensors);
      const auto convert_to = [&](Export format, const fs::path& from, const fs::path& to) {
        const Checkpoint checkpoint(from);
        export_model(*ctx_, packed_blocks(*ctx_, checkpoint, run.config), format, to, kShardBytes);
      };
      convert_to(Export::gptq, run.output(), run.temp / "gptq");
      convert_to(Export::compressed_tensors, run.temp / "gptq", run.temp / "back");
      convert_to(Export::dense, run.temp / "gptq", run.temp / "dense");
      for (const char* file : {"config.json", "model.safetensors", "chat_template.jinja"})
        EXPECT_EQ(read_file(run.output() / file), read_file(run.temp / "back" / file)) << file;
      run.write(Export::dense);
      for (const char* file : {"config.json", "model.safetensors"})
        EXPECT_EQ(read_file(run.output() / file), read_file(run.temp / "dense" / file)) << file;
      EXPECT_NE(
          error_text([&] { convert_to(Export::gptq, run.temp / "dense", run.temp / "none"); }).find("dense weights"),
          std::string::npos);
    }
}

// Widths by role and block, quantised activations at two sites, one of them in front of 16-bit weights, a quantised
// cache.
LinearSpec mixed(LinearRole role, std::int64_t layer) {
  const bool reads_mlp = site_of(role) == Site::mlp_in, reads_out = site_of(role) == Site::mlp_out;
  const ActivationSpec activation = reads_mlp   ? ActivationSpec{8, Symmetry::symmetric}
                                    : reads_out ? ActivationSpec{4, Symmetry::asymmetric}
                                                : ActivationSpec{};
  if (role == LinearRole::down) return linear_spec(layer == 0 ? 16 : 8, -1, Symmetry::symmetric, activation);
  return linear_spec(role == LinearRole::o ? 16 : layer == 0 ? 3 : 4, 4, Symmetry::asymmetric, activation);
}

TEST_F(Exporting, MixedSchemesActivationsAndCache) {
  for (const Family family : {Family::llama, Family::opt}) {
    Exported run(*ctx_, {family, DType::bf16}, mixed, {8, Symmetry::asymmetric});
    for (const Export format : {Export::compressed_tensors, Export::dense}) {
      SCOPED_TRACE(format == Export::dense ? "dense" : "compressed-tensors");
      run.write(format);
      run.expect_whole();
    }
  }
}

TEST_F(Exporting, ConfigOfMixedSchemesNamesLayers) {
  Exported run(*ctx_, {}, mixed, {8, Symmetry::asymmetric});
  run.write(Export::compressed_tensors);
  const json quantisation = run.config_json().at("quantization_config");
  EXPECT_EQ(quantisation.at("ignore"), (json{"lm_head", "model.layers.0.self_attn.o_proj",
                                             "model.layers.0.mlp.down_proj", "model.layers.1.self_attn.o_proj"}));
  const json& groups = quantisation.at("config_groups");
  ASSERT_EQ(groups.size(), 5u);
  EXPECT_EQ(groups.at("group_1").at("targets"), (json{"model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"}));
  EXPECT_EQ(groups.at("group_1").at("input_activations"),
            json::parse(R"({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true})"));
  const json& own = quantisation.at("cbq");
  EXPECT_EQ(own.at("kv_bits"), 8);
  EXPECT_EQ(own.at("kv_symmetric"), false);
  EXPECT_EQ(own.at("activations"),
            json::parse(R"([{"num_bits": 4, "symmetric": false, "targets": ["model.layers.0.mlp.down_proj"]}])"));
  EXPECT_EQ(own.at("activation_factor").size(), 6u) << "gate, up and down of two blocks";
}

TEST_F(Exporting, AnotherFormatReplacesTheFirst) {
  Exported run(*ctx_, {}, [](LinearRole, std::int64_t) { return linear_spec(4, -1, Symmetry::symmetric); });
  for (const char* name :
       {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"})
    write_file(run.output() / name, "of an export with more shards");
  write_file(run.output() / "report.json", "{}");
  run.write(Export::dense);
  run.expect_whole();
  EXPECT_FALSE(fs::exists(run.output() / "model-00001-of-00002.safetensors"));
  EXPECT_FALSE(fs::exists(run.output() / "model.safetensors.index.json"));
  EXPECT_TRUE(fs::exists(run.output() / "report.json"));
}

TEST_F(Exporting, ABlockOfAnotherRunIsRefused) {
  Exported run(*ctx_, {}, [](LinearRole, std::int64_t) { return linear_spec(4, -1, Symmetry::symmetric); });
  run.specs[1][std::size_t(LinearRole::up)].weight.bits = 3;
  const std::string text = error_text([&] { run.write(Export::compressed_tensors); }, ErrorKind::failure);
  EXPECT_EQ(text, "export: model.layers.1.mlp.up_proj: the integers in the store do not belong to this run");
  EXPECT_FALSE(fs::exists(run.output() / "config.json"));
  EXPECT_FALSE(fs::exists(run.output() / "model.safetensors"));
}

TEST_F(Exporting, ValuesThatTheFileCannotHoldAreRefused) {
  Exported run(*ctx_, {}, [](LinearRole, std::int64_t) { return linear_spec(4, -1, Symmetry::symmetric); });
  run.blocks[0].weights.mlp_norm.weight = full(*ctx_, {run.config.hidden}, DType::f32, 1.0f / 3);
  run.store.save_block(*ctx_, 0, run.blocks[0], DType::f16);
  EXPECT_EQ(error_text([&] { run.write(Export::dense); }, ErrorKind::failure),
            "export: model.layers.0.post_attention_layernorm.weight is not exact in f16");
}

TEST_F(Exporting, ShardsAndIndex) {
  const TempFolder folder;
  std::vector<TensorSpec> specs;
  for (int i = 0; i < 5; ++i) specs.push_back({concat("t", i), DType::f32, {i == 3 ? 100 : 10}});
  ShardWriter writer(folder.path(), specs, 90);  // bytes: two tensors of 40 fit, the one of 400 fits nowhere
  for (const TensorSpec& spec : specs)
    writer.write(spec.name, std::vector<std::byte>(std::size_t(4 * spec.shape.count()), std::byte(spec.name[1])));
  writer.finish();
  const json index = json::parse(read_file(folder / "model.safetensors.index.json"));
  EXPECT_EQ(index.at("metadata").at("total_size"), 560);
  const auto shard = [](int i) { return concat("model-0000", i, "-of-00004.safetensors"); };
  EXPECT_EQ(index.at("weight_map"),
            (json{{"t0", shard(1)}, {"t1", shard(1)}, {"t2", shard(2)}, {"t3", shard(3)}, {"t4", shard(4)}}));
  const Checkpoint read(folder.path());
  for (const TensorSpec& spec : specs)
    EXPECT_EQ(std::ranges::count(read.bytes(spec.name), std::byte(spec.name[1])), 4 * spec.shape.count());
}

TEST_F(Exporting, AnUnplannedTensorIsRefused) {
  const TempFolder folder;
  ShardWriter writer(folder.path(), {{"a", DType::u8, {1}}}, 1);
  EXPECT_NE(error_text([&] { writer.finish(); }, ErrorKind::failure), "no error");
  writer.write("a", std::vector<std::byte>(1));
  EXPECT_NE(error_text([&] { writer.write("b", std::vector<std::byte>(1)); }, ErrorKind::failure), "no error");
}

// A child exports without end, in one format after the other, and is killed at a random moment. A folder with
// config.json must be whole, and the next export must succeed whatever it finds.
TEST_F(Exporting, AKillLeavesNoFolderThatLooksWholeAndIsNot) {
  Exported run(*ctx_, {}, [](LinearRole, std::int64_t) { return linear_spec(4, 4, Symmetry::asymmetric); });
  const auto delay_seed = static_cast<std::uint64_t>(getpid());
  SCOPED_TRACE(concat("delay seed ", delay_seed));
  Rng delays(delay_seed);
  int incomplete = 0;
  for (int round = 0; round < 30; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        for (;;)
          for (const Export format : kFolders) run.write(format);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "child: %s\n", error.what());
      }
      _exit(1);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(1000 + delays.below(40000)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";
    if (fs::exists(run.output() / "config.json"))
      run.expect_whole();
    else
      ++incomplete;
  }
  EXPECT_GT(incomplete, 0) << "no kill hit an export";
  run.write(Export::compressed_tensors);
  run.expect_whole();
}

}  // namespace
}  // namespace cbq
