// Exported folders: read back they are the hardened blocks bit for bit; what surrounds the blocks is the source's.
#include <unistd.h>

#include <chrono>

#include "quant/export_format.h"
#include "tests/error_text.h"
#include "tests/exported.h"
#include "tests/killed_child.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr Export kFolders[] = {Export::compressed_tensors, Export::gptq, Export::dense};

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
    test::kill_while(std::chrono::microseconds(1000 + delays.below(40000)), [&] {
      for (const Export format : kFolders) run.write(format);
    });
    if (HasFatalFailure()) return;
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
