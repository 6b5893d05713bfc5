// Reading config.json of supported and of hostile checkpoints.
#include "models/config.h"

#include <gtest/gtest.h>

#include "checkpoint_files.h"
#include "error_text.h"
#include "temp_folder.h"

namespace cbq {
namespace {

using nlohmann::json;

ModelConfig read_patched(const std::string& model, const json& patch) {
  const TempFolder folder;
  copy_model(model, folder.path(), patch);
  return read_model_config(folder.path());
}

std::string error_of(const std::string& model, const json& patch) {
  return error_text([&] { read_patched(model, patch); });
}

void expect_error(const std::string& model, const json& patch, const std::string& part) {
  const std::string text = error_of(model, patch);
  EXPECT_NE(text.find(part), std::string::npos) << patch << " gave: " << text;
  EXPECT_NE(text.find("config.json"), std::string::npos) << text;
}

TEST(ModelConfig, ReadsLlama3) {
  const ModelConfig c = read_model_config("tests/data/models/llama3");
  EXPECT_EQ(c.architecture, "LlamaForCausalLM");
  EXPECT_EQ(c.family, Family::llama);
  EXPECT_EQ(c.layers, 2);
  EXPECT_EQ(c.hidden, 32);
  EXPECT_EQ(c.ffn, 48);
  EXPECT_EQ(c.heads, 4);
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.head_dim, 12);
  EXPECT_EQ(c.vocab, 64);
  EXPECT_EQ(c.max_positions, 256);
  EXPECT_EQ(c.embed_dim, 32);
  EXPECT_EQ(c.rope_theta, 500);
  ASSERT_TRUE(c.rope_scaling);
  EXPECT_EQ(c.rope_scaling->factor, 8);
  EXPECT_EQ(c.rope_scaling->original_max_positions, 64);
  EXPECT_EQ(c.dtype, DType::f32);
  EXPECT_EQ(c.bos, 1);
  EXPECT_EQ(c.eos, (std::vector<std::int32_t>{2, 5}));
  EXPECT_TRUE(c.qkv_bias && c.o_bias && c.mlp_bias);
  EXPECT_FALSE(c.tied_head);
}

TEST(ModelConfig, ReadsBiasesOfEachArchitecture) {
  const ModelConfig qwen2 = read_model_config("tests/data/models/qwen2");
  EXPECT_TRUE(qwen2.qkv_bias && !qwen2.o_bias && !qwen2.mlp_bias && qwen2.tied_head);
  const ModelConfig mistral = read_model_config("tests/data/models/mistral");
  EXPECT_TRUE(!mistral.qkv_bias && !mistral.o_bias && !mistral.mlp_bias);
  EXPECT_EQ(mistral.sliding_window, 32);
  EXPECT_FALSE(read_patched("mistral", {{"sliding_window", nullptr}}).sliding_window);
  EXPECT_FALSE(read_model_config("tests/data/models/opt-gelu").qkv_bias);
}

TEST(ModelConfig, ReadsOpt350m) {
  const ModelConfig c = read_model_config("tests/data/models/opt-350m");
  EXPECT_EQ(c.family, Family::opt);
  EXPECT_FALSE(c.pre_norm);
  EXPECT_FALSE(c.final_norm);
  EXPECT_EQ(c.embed_dim, 16);
  EXPECT_EQ(c.activation, Activation::relu);
  EXPECT_TRUE(c.tied_head && c.qkv_bias && c.o_bias && c.mlp_bias);
  EXPECT_FALSE(read_patched("opt-gelu", {{"_remove_final_layer_norm", true}}).final_norm);
  EXPECT_EQ(read_patched("opt-350m", {{"word_embed_proj_dim", nullptr}}).embed_dim, 32);
}

TEST(ModelConfig, ReadsOldKeys) {
  const json old = {{"dtype", nullptr},
                    {"torch_dtype", "bfloat16"},
                    {"rope_parameters", nullptr},
                    {"rope_theta", 70.5},
                    {"rope_scaling",
                     {{"rope_type", "llama3"},
                      {"factor", 2},
                      {"low_freq_factor", 1},
                      {"high_freq_factor", 3},
                      {"original_max_position_embeddings", 128}}}};
  const ModelConfig c = read_patched("llama3", old);
  EXPECT_EQ(c.dtype, DType::bf16);
  EXPECT_EQ(c.rope_theta, 70.5);
  EXPECT_EQ(c.rope_scaling->high_freq_factor, 3);
  const ModelConfig plain = read_patched("llama3", {{"rope_parameters", nullptr}, {"rope_scaling", nullptr}});
  EXPECT_FALSE(plain.rope_scaling);
  EXPECT_EQ(plain.rope_theta, 10000);
}

TEST(ModelConfig, WithoutDtypeTakesThatOfTheShards) {
  EXPECT_EQ(read_patched("llama3", {{"dtype", nullptr}}).dtype, DType::f32);
  const TempFolder folder;
  copy_model("llama3", folder.path(), {{"dtype", nullptr}});
  std::filesystem::remove(folder / "golden.safetensors");
  write_shard(folder / "model.safetensors", {stored<std::uint16_t>("x", DType::bf16, {1}, {0})});
  EXPECT_EQ(read_model_config(folder.path()).dtype, DType::bf16);
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_NE(error_text([&] { read_model_config(folder.path()); }).find("dtype"), std::string::npos);
}

TEST(ModelConfig, RefusesOtherArchitectures) {
  expect_error("llama3", {{"architectures", {"GPT2LMHeadModel"}}},
               "\"GPT2LMHeadModel\" is not supported; supported are Llama");
  for (const json& value : {json(nullptr), json("LlamaForCausalLM"), json::array(), json({3})})
    expect_error("llama3", {{"architectures", value}}, "\"architectures\"");
}

TEST(ModelConfig, RefusesOptionsThatWouldChangeTheResult) {
  const auto rope = [](const char* type) { return json{{"rope_parameters", {{"rope_type", type}}}}; };
  for (const char* type : {"linear", "dynamic", "yarn", "longrope"}) expect_error("llama3", rope(type), type);
  expect_error("llama3", {{"rope_parameters", nullptr}, {"rope_scaling", {{"type", "linear"}, {"factor", 2}}}},
               "linear");
  expect_error("llama3", {{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, "partial_rotary_factor");
  expect_error("llama3", {{"rope_parameters", {{"factor", nullptr}}}}, "factor");
  expect_error("llama3", {{"rope_parameters", {{"low_freq_factor", 5}}}}, "high_freq_factor");
  expect_error("llama3", {{"hidden_act", "gelu"}}, "hidden_act");
  expect_error("qwen2", {{"use_sliding_window", true}}, "use_sliding_window");
  expect_error("opt-350m", {{"layer_norm_elementwise_affine", false}}, "layer_norm_elementwise_affine");
  expect_error("opt-350m", {{"activation_function", "swish"}}, "activation_function");
  expect_error("llama3", {{"dtype", "float8_e4m3fn"}}, "float8_e4m3fn");
}

TEST(ModelConfig, RefusesMissingKeysAndWrongTypes) {
  for (const char* key : {"hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size",
                          "max_position_embeddings"})
    for (const json& value : {json(nullptr), json("8"), json(8.5), json(true), json(0), json(-1), json(1ull << 60),
                              json(~0ull), json::array({1}), json::object({{"a", 1}})})
      expect_error("llama3", {{key, value}}, key);
  for (const char* key : {"rms_norm_eps", "rope_theta"})
    for (const json& value : {json("1"), json(0), json(-1), json::array()}) expect_error("llama3", {{key, value}}, key);
  for (const char* key : {"tie_word_embeddings", "attention_bias", "mlp_bias"}) expect_error("llama3", {{key, 1}}, key);
  for (const json& value : {json("2"), json({2, "3"}), json(2.5), json(1ull << 40)})
    expect_error("llama3", {{"eos_token_id", value}}, "eos_token_id");
  expect_error("opt-350m", {{"word_embed_proj_dim", 0}}, "word_embed_proj_dim");
  expect_error("llama3", {{"rope_parameters", 3}}, "rope_parameters");
}

TEST(ModelConfig, RefusesSizesThatContradict) {
  expect_error("llama3", {{"num_key_value_heads", 3}}, "num_key_value_heads");
  expect_error("llama3", {{"head_dim", 7}}, "even");
  expect_error("llama3", {{"head_dim", nullptr}, {"num_attention_heads", 5}, {"num_key_value_heads", 5}},
               "hidden_size");
  expect_error("opt-350m", {{"num_attention_heads", 5}}, "hidden_size");
}

TEST(ModelConfig, RefusesBrokenFiles) {
  const TempFolder folder;
  EXPECT_NE(error_text([&] { read_model_config(folder.path()); }).find("config.json"), std::string::npos);
  for (const char* text : {"", "[]", "3", "{", "{\"architectures\": [\"LlamaForCausalLM\"]", "\xff"}) {
    write_file(folder / "config.json", text);
    EXPECT_NE(error_text([&] { read_model_config(folder.path()); }).find("config.json"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace cbq
