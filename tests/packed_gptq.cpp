// Reading GPTQ checkpoints that other programs wrote: versions, orders of groups, schemes by name, hostile files.
#include <gtest/gtest.h>

#include <cstring>

#include "checkpoint_files.h"
#include "core/bitpack.h"
#include "core/rng.h"
#include "cpu/open.h"
#include "error_text.h"
#include "models/weights.h"
#include "temp_folder.h"

namespace cbq {
namespace {

using nlohmann::json;

const auto kContext = cpu::open(1);
const std::string kName = "model.layers.0.mlp.up_proj";
constexpr std::int64_t kOut = 32, kIn = 64;

void expect_part(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
}

json gptq_config(int bits, std::int64_t group_size, const char* version) {
  return {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", group_size},
          {"desc_act", true},       {"sym", false}, {"checkpoint_format", version}};
}

// A layer of random codes, its groups in any order of columns, with the values that the format's definition gives.
struct Layer {
  std::vector<StoredTensor> tensors;
  std::vector<float> values;
};

Layer make_layer(int bits, std::int64_t groups, bool is_v1, bool is_ordered, bool is_bf16) {
  Rng rng(std::uint64_t(bits * 10 + groups));
  const auto levels = std::uint64_t(1) << bits;
  std::vector<std::uint8_t> codes(std::size_t(kIn * kOut)), zeros(std::size_t(groups * kOut)), fields;
  std::vector<std::uint16_t> scales;
  std::vector<std::int32_t> group_of;
  for (auto& code : codes) code = std::uint8_t(rng.below(levels));
  for (auto& zero : zeros) {
    zero = std::uint8_t(rng.below(levels));
    fields.push_back(std::uint8_t((zero + (is_v1 ? levels - 1 : 0)) % levels));
    scales.push_back(f32_to_f16(0.01f + float(rng.uniform())));
  }
  for (std::int64_t i = 0; i < kIn; ++i)
    group_of.push_back(std::int32_t(is_ordered ? i / (kIn / groups) : i * 7 % groups));
  const auto held = [&](float x) { return is_bf16 ? bf16_to_f32(f32_to_bf16(x)) : f16_to_f32(f32_to_f16(x)); };
  Layer layer;
  for (std::int64_t r = 0; r < kOut; ++r)
    for (std::int64_t c = 0; c < kIn; ++c) {
      const auto g = std::size_t(group_of[std::size_t(c)] * kOut + r);
      layer.values.push_back(held(held(f16_to_f32(scales[g])) * float(codes[std::size_t(c * kOut + r)] - zeros[g])));
    }
  std::vector<std::uint32_t> words(std::size_t(word_count(kIn, bits) * kOut)),
      zero_words(std::size_t(groups * word_count(kOut, bits)));
  pack_columns(codes, kIn, kOut, bits, words);
  pack_rows(fields, groups, kOut, bits, zero_words);
  layer.tensors = {stored(kName + ".qweight", DType::i32, {word_count(kIn, bits), kOut}, words),
                   stored(kName + ".qzeros", DType::i32, {groups, word_count(kOut, bits)}, zero_words),
                   stored(kName + ".scales", DType::f16, {groups, kOut}, scales),
                   stored(kName + ".g_idx", DType::i32, {kIn}, group_of)};
  return layer;
}

void write_config(const TempFolder& folder, const json& quantisation, const char* dtype = "float16") {
  write_file(folder / "config.json", json{{"dtype", dtype}, {"quantization_config", quantisation}}.dump());
}

TEST(PackedGptq, EveryWidthVersionAndOrderBitForBit) {
  for (const int bits : {2, 3, 4, 8})
    for (const std::int64_t group_size : {-1, 8})
      for (const bool is_v1 : {true, false})
        for (const bool is_ordered : {true, false})
          for (const bool is_bf16 : {true, false}) {
            const TempFolder folder;
            const Layer layer = make_layer(bits, group_size < 0 ? 1 : kIn / group_size, is_v1, is_ordered, is_bf16);
            write_shard(folder / "model.safetensors", layer.tensors);
            write_config(folder, gptq_config(bits, group_size, is_v1 ? "gptq" : "gptq_v2"),
                         is_bf16 ? "bfloat16" : "float16");
            const Tensor w = Checkpoint(folder.path()).load_weight(*kContext, kName, {kOut, kIn}, DType::f32);
            EXPECT_EQ(to_host<float>(*kContext, w), layer.values)
                << bits << " bits, group " << group_size << (is_v1 ? ", v1" : ", v2") << (is_ordered ? "" : ", mixed");
          }
}

// AutoGPTQ's own file, without quant_method, where config.json says nothing.
TEST(PackedGptq, TheConfigMayStandInItsOwnFile) {
  const TempFolder folder;
  const Layer layer = make_layer(4, 8, true, true, false);
  write_shard(folder / "model.safetensors", layer.tensors);
  write_file(folder / "config.json", R"({"torch_dtype": "float16"})");
  write_file(folder / "quantize_config.json", R"({"bits": 4, "group_size": 8, "desc_act": false, "sym": true})");
  const Tensor w = Checkpoint(folder.path()).load_weight(*kContext, kName, {kOut, kIn}, DType::f32);
  EXPECT_EQ(to_host<float>(*kContext, w), layer.values);
}

TEST(PackedGptq, SchemesOfLayersByName) {
  json config = gptq_config(4, 128, "gptq_v2");
  config["dynamic"] = {{"-:.*down_proj", json::object()},
                       {"+:model[.]layers[.]1[.]", {{"bits", 8}, {"group_size", -1}}},
                       {".*layers[.]2[.].*", {{"sym", true}}}};
  const QuantizationConfig quantized(config, "q");
  EXPECT_EQ(quantized.scheme("model.layers.0.mlp.down_proj").wbits, 16);
  EXPECT_EQ(quantized.scheme("model.layers.1.mlp.up_proj").wbits, 8);
  EXPECT_EQ(quantized.scheme("model.layers.1.mlp.up_proj").group_size, -1);
  EXPECT_EQ(quantized.scheme("model.layers.2.mlp.up_proj").wbits, 4);
  EXPECT_EQ(quantized.scheme("model.layers.2.mlp.up_proj").symmetry, Symmetry::symmetric);
  EXPECT_EQ(quantized.scheme("model.layers.3.mlp.up_proj").symmetry, Symmetry::asymmetric);
  EXPECT_EQ(quantized.scheme("model.layers.3.mlp.up_proj").format, PackedFormat::gptq_v2);
}

TEST(PackedGptq, LayersWithoutIntegersAreDense) {
  const TempFolder folder;
  write_shard(folder / "model.safetensors",
              {stored("lm_head.weight", DType::f16, {1, 1}, std::vector<std::uint16_t>{f32_to_f16(2)})});
  write_config(folder, gptq_config(4, 8, "gptq"));
  const Checkpoint checkpoint(folder.path());
  EXPECT_EQ(checkpoint.scheme("lm_head").wbits, 16);
  EXPECT_EQ(to_host<float>(*kContext, checkpoint.load_weight(*kContext, "lm_head", {1, 1}, DType::f32))[0], 2);
}

TEST(PackedGptq, RefusesConfigsThatAreNotSupported) {
  const auto expect_refused = [&](const char* key, const json& value) {
    json config = gptq_config(4, 8, "gptq");
    config[key] = value;
    const std::string text = error_text([&] { QuantizationConfig(config, "here"); });
    expect_part(text, "here");
    expect_part(text, key);
  };
  for (const json& bits : {json(1), json(5), json(6), json(7), json(9), json("4"), json(nullptr), json(1ull << 63)})
    expect_refused("bits", bits);
  for (const json& size : {json(0), json(-2), json("8"), json(1.5), json(1ull << 60)})
    expect_refused("group_size", size);
  for (const json& version : {json("gptq_p"), json("marlin"), json(2)}) expect_refused("checkpoint_format", version);
  expect_refused("pack_dtype", "int16");
  expect_refused("sym", 1);
  expect_refused("dynamic", json::array());
  expect_refused("dynamic", {{"+:(", json::object()}});
  expect_refused("dynamic", {{"+:.*", 3}});
  expect_refused("dynamic", {{"+:.*", {{"bits", 5}}}});
}

// A layer written with one change; the text that reading it gives.
std::string load_error(const json& config, const std::function<void(std::vector<StoredTensor>&)>& change) {
  const TempFolder folder;
  Layer layer = make_layer(4, 8, true, false, false);
  change(layer.tensors);
  write_shard(folder / "model.safetensors", layer.tensors);
  write_config(folder, config);
  return error_text([&] { Checkpoint(folder.path()).load_weight(*kContext, kName, {kOut, kIn}, DType::f32); });
}

TEST(PackedGptq, RefusesLayersThatContradictTheirScheme) {
  const json good = gptq_config(4, 8, "gptq");
  const auto nothing = [](std::vector<StoredTensor>&) {};
  EXPECT_EQ(load_error(good, nothing), "no error");
  expect_part(load_error(gptq_config(8, 8, "gptq"), nothing), ".qweight\": expected (16, 32) i32, found (8, 32) i32");
  expect_part(load_error(gptq_config(4, 16, "gptq"), nothing), ".qzeros");
  expect_part(load_error(gptq_config(4, 24, "gptq"), nothing), "group_size 24 does not divide");
  for (const char* suffix : {".qzeros", ".scales"})
    expect_part(load_error(good,
                           [&](auto& tensors) {
                             std::erase_if(tensors, [&](const auto& t) { return t.spec.name == kName + suffix; });
                           }),
                suffix);
  for (const std::uint16_t step : {0x7e00, 0x7c00, 0xfc00})  // NaN and both infinities
    expect_part(load_error(good,
                           [&](auto& tensors) {
                             for (StoredTensor& t : tensors)
                               if (t.spec.name == kName + ".scales") std::memcpy(t.bytes.data() + 10, &step, 2);
                           }),
                ".scales\": expected finite numbers, found 1 NaN or infinities");
  for (const std::int32_t group : {-1, 8, 1 << 30})
    expect_part(load_error(good,
                           [&](auto& tensors) {
                             tensors.back() = stored(kName + ".g_idx", DType::i32, {kIn},
                                                     std::vector<std::int32_t>(std::size_t(kIn), group));
                           }),
                "expected groups from 0 to 7");
  json skipped = good;
  skipped["dynamic"] = {{"-:.*", json::object()}};
  expect_part(load_error(skipped, nothing), "no scheme");
}

}  // namespace
}  // namespace cbq
