// Packed checkpoints: reading of integers, schemes by name, and what hostile files are told.
#include "models/packed.h"

#include <gtest/gtest.h>

#include "checkpoint_files.h"
#include "core/bitpack.h"
#include "core/rng.h"
#include "cpu/open.h"
#include "error_text.h"
#include "models/model.h"
#include "temp_folder.h"

namespace cbq {
namespace {

using nlohmann::json;

const auto kContext = cpu::open();
const std::string kName = "model.layers.0.mlp.up_proj";

void expect_part(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
}

json group(int bits, std::int64_t group_size, bool symmetric) {
  json weights = {{"num_bits", bits}, {"type", "int"}, {"symmetric", symmetric}, {"dynamic", false}};
  weights["strategy"] = group_size < 0 ? "channel" : "group";
  if (group_size > 0) weights["group_size"] = group_size;
  return {{"targets", {"Linear"}}, {"weights", weights}};
}

json quantization(const json& groups) {
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"ignore", {"lm_head"}},
          {"config_groups", groups}};
}

void write_config(const TempFolder& folder, const json& quantization_config) {
  write_file(folder / "config.json", json{{"quantization_config", quantization_config}}.dump());
}

// A layer (out, in) of random codes with the values it stands for, as the format's definition computes them.
struct Layer {
  std::vector<StoredTensor> tensors;
  std::vector<float> values;
};

Layer make_layer(std::int64_t out, std::int64_t in, int bits, std::int64_t group_size, bool symmetric,
                 DType scale_dtype, PackedFormat format) {
  Rng rng(std::uint64_t(bits * 1000 + in));
  const std::int64_t groups = group_size < 0 ? 1 : in / group_size, width = in / groups, levels = 1 << bits;
  std::vector<std::uint8_t> codes, zeros;
  std::vector<std::uint16_t> scales;
  for (std::int64_t i = 0; i < out * in; ++i) codes.push_back(std::uint8_t(rng.below(std::uint64_t(levels))));
  const bool half = scale_dtype == DType::f16;
  for (std::int64_t i = 0; i < out * groups; ++i) {
    zeros.push_back(std::uint8_t(symmetric ? levels / 2 : std::int64_t(rng.below(std::uint64_t(levels)))));
    const float s = 0.01f + float(rng.uniform());
    scales.push_back(half ? f32_to_f16(s) : f32_to_bf16(s));
  }
  Layer layer;
  for (std::int64_t i = 0; i < out * in; ++i) {
    const std::size_t g = std::size_t(i / in * groups + i % in / width);
    const float s = half ? f16_to_f32(scales[g]) : bf16_to_f32(scales[g]);
    const float value = s * float(codes[std::size_t(i)] - zeros[g]);
    layer.values.push_back(half ? f16_to_f32(f32_to_f16(value)) : bf16_to_f32(f32_to_bf16(value)));
  }
  layer.tensors.push_back(stored(kName + ".weight_scale", scale_dtype, {out, groups}, scales));
  if (format == PackedFormat::int_quantized) {
    std::vector<std::int8_t> q, z;
    for (const auto c : codes) q.push_back(std::int8_t(c - levels / 2));
    for (const auto c : zeros) z.push_back(std::int8_t(c - levels / 2));
    layer.tensors.push_back(stored(kName + ".weight", DType::i8, {out, in}, q));
    if (!symmetric) layer.tensors.push_back(stored(kName + ".weight_zero_point", DType::i8, {out, groups}, z));
    return layer;
  }
  std::vector<std::uint32_t> words(std::size_t(out * word_count(in, bits))),
      zero_words(std::size_t(word_count(out, bits) * groups));
  pack_rows(codes, out, in, bits, words);
  pack_columns(zeros, out, groups, bits, zero_words);
  layer.tensors.push_back(stored(kName + ".weight_packed", DType::i32, {out, word_count(in, bits)}, words));
  layer.tensors.push_back(stored(kName + ".weight_shape", DType::i64, {2}, std::vector<std::int64_t>{out, in}));
  if (!symmetric)
    layer.tensors.push_back(
        stored(kName + ".weight_zero_point", DType::i32, {word_count(out, bits), groups}, zero_words));
  return layer;
}

TEST(Packed, DequantisesEveryWidthBitForBit) {
  for (const int bits : {1, 2, 3, 4, 5, 6, 7, 8})
    for (const std::int64_t group_size : {-1, 8})
      for (const bool symmetric : {true, false})
        for (const DType dtype : {DType::f16, DType::bf16})
          for (const PackedFormat format : {PackedFormat::pack_quantized, PackedFormat::int_quantized}) {
            const TempFolder folder;
            const Layer layer = make_layer(5, 40, bits, group_size, symmetric, dtype, format);
            write_shard(folder / "model.safetensors", layer.tensors);
            json config = quantization({{"group_0", group(bits, group_size, symmetric)}});
            if (format == PackedFormat::int_quantized) config["format"] = "int-quantized";
            write_config(folder, config);
            const Checkpoint checkpoint(folder.path());
            const Tensor w = checkpoint.load_weight(*kContext, kName, {5, 40}, DType::f32);
            EXPECT_EQ(to_host<float>(*kContext, w), layer.values) << bits << " bits, group " << group_size;
          }
}

TEST(Packed, SchemesGoByNameThenExpressionThenClass) {
  json two = group(2, -1, true), three = group(3, -1, true), four = group(4, -1, true);
  three["targets"] = {"re:.*[.]mlp[.]up_"};
  two["targets"] = {"model.layers.7.mlp.up_proj"};
  json config = quantization({{"a", four}, {"b", three}, {"c", two}});
  config["ignore"] = {"lm_head", "re:model.layers.9.*"};
  config["cbq"] = {
      {"activation_factor", {{"model.layers.1.mlp.up_proj", 0.75}}}, {"kv_bits", 8}, {"kv_symmetric", false}};
  const QuantizationConfig quantized(config, "q");
  EXPECT_EQ(quantized.scheme("model.layers.7.mlp.up_proj").wbits, 2);
  EXPECT_EQ(quantized.scheme("model.layers.6.mlp.up_proj").wbits, 3);
  EXPECT_EQ(quantized.scheme("model.layers.6.mlp.down_proj").wbits, 4);
  EXPECT_EQ(quantized.scheme("lm_head").wbits, 16);
  EXPECT_EQ(quantized.scheme("model.layers.9.mlp.up_proj").wbits, 16);
  EXPECT_EQ(quantized.scheme("model.layers.1.mlp.up_proj").activation_factor, 0.75);
  EXPECT_EQ(quantized.scheme("model.layers.2.mlp.up_proj").activation_factor, 1);
  EXPECT_EQ(quantized.kv_bits(), 8);
  EXPECT_EQ(quantized.kv_symmetry(), Symmetry::asymmetric);
}

TEST(Packed, ReadsActivationSchemes) {
  json one = group(4, -1, true);
  one["input_activations"] = {{"num_bits", 8}, {"symmetric", false}, {"strategy", "token"}, {"dynamic", true}};
  const StoredScheme scheme = QuantizationConfig(quantization({{"g", one}}), "q").scheme("x");
  EXPECT_EQ(scheme.abits, 8);
  EXPECT_EQ(scheme.activation_symmetry, Symmetry::asymmetric);
  const json wrong = {{"dynamic", false}, {"strategy", "tensor"}, {"num_bits", 9}, {"type", "float"}};
  for (const auto& [key, value] : wrong.items()) {
    json broken = one;
    broken["input_activations"][key] = value;
    expect_part(error_text([&] { QuantizationConfig(quantization({{"g", broken}}), "q"); }), key);
  }
}

TEST(Packed, RefusesConfigsThatAreNotSupported) {
  const json good = quantization({{"g", group(4, 8, true)}});
  const auto expect_refused = [&](const char* pointer, const json& value, const std::string& part) {
    json broken = good;
    broken[json::json_pointer(pointer)] = value;
    const std::string text = error_text([&] { QuantizationConfig(broken, "here"); });
    expect_part(text, part);
    expect_part(text, "here");
  };
  expect_refused("/quant_method", "awq", "awq");
  expect_refused("/quant_method", 4, "quant_method");
  expect_refused("/format", "marlin-24", "format");
  expect_refused("/format", 4, "format");
  expect_refused("/ignore", "lm_head", "ignore");
  expect_refused("/ignore", {3}, "ignore");
  expect_refused("/ignore", {"re:("}, "ignore");
  expect_refused("/config_groups", json::array(), "config_groups");
  expect_refused("/config_groups/g", 3, "\"g\"");
  expect_refused("/config_groups/g/targets", nullptr, "targets");
  expect_refused("/config_groups/g/output_activations", json::object(), "output_activations");
  for (const json& bits : {json(0), json(9), json("4"), json(4.5), json(nullptr), json(1ull << 63)})
    expect_refused("/config_groups/g/weights/num_bits", bits, "num_bits");
  for (const json& size : {json(0), json(-1), json("8"), json(nullptr), json(1ull << 60)})
    expect_refused("/config_groups/g/weights/group_size", size, "group_size");
  expect_refused("/config_groups/g/weights/strategy", "tensor", "strategy");
  expect_refused("/config_groups/g/weights/type", "float", "type");
  expect_refused("/config_groups/g/weights/symmetric", 1, "symmetric");
  expect_refused("/config_groups/g/weights/actorder", "group", "actorder");
  expect_refused("/kv_cache_scheme", {{"num_bits", 8}}, "kv_cache_scheme");
  expect_refused("/sparsity_config", {{"format", "x"}}, "sparsity_config");
  expect_refused("/cbq", 3, "cbq");
  expect_refused("/cbq", {{"kv_bits", 1}}, "kv_bits");
  for (const json& factor : {json(0), json(-1), json("1"), json(nullptr)})
    expect_refused("/cbq", {{"activation_factor", {{"x", factor}}}}, "activation_factor");
}

// A layer written with one change; the text that reading it gives.
std::string load_error(const json& config, const std::function<void(std::vector<StoredTensor>&)>& change) {
  const TempFolder folder;
  Layer layer = make_layer(5, 40, 4, 8, false, DType::f16, PackedFormat::pack_quantized);
  change(layer.tensors);
  write_shard(folder / "model.safetensors", layer.tensors);
  write_config(folder, config);
  return error_text([&] { Checkpoint(folder.path()).load_weight(*kContext, kName, {5, 40}, DType::f32); });
}

void drop(std::vector<StoredTensor>& tensors, const std::string& suffix) {
  std::erase_if(tensors, [&](const StoredTensor& t) { return t.spec.name == kName + suffix; });
}

TEST(Packed, RefusesLayersThatContradictTheirScheme) {
  const auto nothing = [](std::vector<StoredTensor>&) {};
  const auto config = [](int bits, std::int64_t size, bool symmetric) {
    return quantization({{"g", group(bits, size, symmetric)}});
  };
  const json good = config(4, 8, false);
  EXPECT_EQ(load_error(good, nothing), "no error");
  expect_part(load_error(config(3, 8, false), nothing), ".weight_packed\": expected (5, 4) i32, found (5, 5) i32");
  expect_part(load_error(config(4, 16, false), nothing), "group_size 16 does not divide");
  expect_part(load_error(config(4, 20, false), nothing), "weight_zero_point");
  expect_part(load_error(config(4, -1, true), nothing), "weight_scale");
  for (const char* suffix : {".weight_scale", ".weight_packed", ".weight_zero_point"})
    expect_part(load_error(good, [&](auto& tensors) { drop(tensors, suffix); }), suffix);
  expect_part(
      load_error(
          good,
          [](auto& tensors) {
            drop(tensors, ".weight_shape");
            tensors.push_back(stored(kName + ".weight_shape", DType::i64, {2}, std::vector<std::int64_t>{40, 5}));
          }),
      "weight_shape");
  expect_part(
      load_error(good,
                 [](auto& tensors) {
                   tensors.push_back(stored(kName + ".weight_g_idx", DType::i32, {1}, std::vector<std::int32_t>{0}));
                 }),
      "weight_g_idx");
  expect_part(load_error(good,
                         [](auto& tensors) {
                           drop(tensors, ".weight_scale");
                           tensors.push_back(stored(kName + ".weight_scale", DType::f16, {5, 5},
                                                    std::vector<std::uint16_t>(25, 0x7c00)));
                         }),
              "finite");
  json ignored = good;
  ignored["ignore"] = {kName};
  expect_part(load_error(ignored, nothing), "no scheme");
}

TEST(Packed, BlocksTakeTheirActivationQuantisersFromTheFile) {
  const TempFolder folder;
  json one = group(8, -1, true);
  one["weights"] = nullptr;
  one["input_activations"] = {{"num_bits", 8}, {"symmetric", true}, {"strategy", "token"}, {"dynamic", true}};
  json config = quantization({{"g", one}});
  json factors;
  for (const char* role : {"q", "k", "v"}) factors[std::string("model.layers.1.self_attn.") + role + "_proj"] = 0.5;
  config["cbq"] = {{"activation_factor", factors}, {"kv_bits", 4}};
  copy_model("mistral", folder.path(), {{"quantization_config", config}});
  const auto block = Model(*kContext, folder.path()).block(1);
  EXPECT_EQ(block->activations[std::size_t(Site::attention_in)].spec.bits, 8);
  const auto factor = [&](Site site) {
    return to_host<float>(*kContext, block->activations[std::size_t(site)].factor.value)[0];
  };
  EXPECT_EQ(factor(Site::attention_in), 0.5f);
  EXPECT_EQ(factor(Site::mlp_out), 1.0f);
  EXPECT_EQ(block->kv_cache.bits, 4);

  config["cbq"]["activation_factor"]["model.layers.1.self_attn.k_proj"] = 0.25;
  const TempFolder other;
  copy_model("mistral", other.path(), {{"quantization_config", config}});
  expect_part(error_text([&] { Model(*kContext, other.path()).block(1); }), "read the same input");
}

}  // namespace
}  // namespace cbq
