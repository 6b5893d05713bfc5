// What the config.json of an exported folder says about its integers.
#include "tests/exported.h"

namespace cbq {
namespace {

using nlohmann::json;

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

}  // namespace
}  // namespace cbq
