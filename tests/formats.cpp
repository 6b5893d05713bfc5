// Several formats of one model through the program: in one run, later from its integers, and compared.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cpu/open.h"
#include "models/model.h"
#include "tests/program.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace cbq {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

class Formats : public testing::Test {
 protected:
  // The config of a run without calibration, which takes a second.
  fs::path config(const std::string& output, const Json& settings) {
    const fs::path example = fs::absolute("examples/tiny-llama");
    Json all{{"model", example / "model"},
             {"output_dir", folder_ / output},
             {"method", "rtn"},
             {"seqlen", 32},
             {"threads", 1},
             {"eval", {{"data", {example / "eval.jsonl"}}, {"seqlen", 32}, {"windows", 4}}}};
    all.update(settings);
    write_file(folder_ / "run.json", all.dump());
    return folder_ / "run.json";
  }
  Json result(std::vector<std::string> arguments) {
    arguments.push_back("--json");
    const Program program(folder_.path(), arguments);
    const int code = program.wait();
    EXPECT_EQ(code, 0) << program.err();
    log_ = program.err();
    return code == 0 ? Json::parse(program.out()) : Json();
  }
  std::string error(const std::vector<std::string>& arguments) {
    const Program program(folder_.path(), arguments);
    EXPECT_EQ(program.wait(), 2) << program.err();
    return program.err();
  }
  void expect_same_weights(const fs::path& a, const fs::path& b) {
    const auto ctx = cpu::open(1);
    const Model first(*ctx, a), second(*ctx, b);
    for (std::int64_t layer = 0; layer < first.config().layers; ++layer)
      EXPECT_TRUE(same_weights(*ctx, first.block_weights(layer), second.block_weights(layer))) << b << " " << layer;
  }

  TempFolder folder_;
  std::string log_;
};

TEST_F(Formats, OneRunWritesSeveral) {
  const Json report = result(
      {"run", config("out", {{"wbits", 4}, {"group_size", 32}, {"export", {"gptq", "compressed-tensors", "dense"}}})});
  const fs::path out = folder_ / "out";
  const std::pair<const char*, fs::path> written[] = {
      {"gptq", out}, {"compressed-tensors", out / "compressed-tensors"}, {"dense", out / "dense"}};
  ASSERT_EQ(report["size"]["exports"].size(), std::size(written));
  for (std::size_t i = 0; i < std::size(written); ++i)
    EXPECT_EQ(report["size"]["exports"][i],
              (Json{{"format", written[i].first}, {"bytes", fs::file_size(written[i].second / "model.safetensors")}}));
  EXPECT_EQ(report["files"]["output"].size(), std::size(written));
  EXPECT_EQ(Json::parse(read_file(out / "config.json"))["quantization_config"]["quant_method"], "gptq");
  expect_same_weights(out, out / "compressed-tensors");
  expect_same_weights(out, out / "dense");
  for (const char* part : {"export   gptq in ", "export   dense in ", "vllm serve "})
    EXPECT_NE(log_.find(part), std::string::npos) << log_;
}

TEST_F(Formats, AnotherIsMadeLaterFromTheIntegers) {
  result({"run", config("out", {{"wbits", 3}, {"abits", 16}, {"sym", true}})});
  const fs::path out = folder_ / "out";
  const Json first = result({"export", out, "--format", "gptq"});
  EXPECT_EQ(first["folder"].get<std::string>(), (out / "gptq").string());
  expect_same_weights(out, out / "gptq");
  fs::create_directories(folder_ / "dense.partial");  // of an export that was killed
  write_file(folder_ / "dense.partial" / "model-00001-of-00009.safetensors", "half");
  result({"export", out / "gptq", "--format", "dense", "--out", folder_ / "dense", "--max-shard-size", "300000"});
  expect_same_weights(out, folder_ / "dense");
  EXPECT_FALSE(fs::exists(folder_ / "dense.partial"));
  EXPECT_TRUE(fs::exists(folder_ / "dense" / "model.safetensors.index.json")) << "1.5 MB do not fit one shard";
  EXPECT_FALSE(fs::exists(folder_ / "dense" / "model-00001-of-00009.safetensors"));

  EXPECT_NE(error({"export", out, "--format", "gptq"}).find("expected a new folder"), std::string::npos);
  EXPECT_NE(error({"export", folder_ / "dense", "--format", "gptq"}).find("found dense weights"), std::string::npos);
  EXPECT_NE(error({"export", out, "--format", "onnx"}).find("onnx"), std::string::npos);
}

TEST_F(Formats, OneFileForLlamaCpp) {
  const Json grid{{"wbits", 4}, {"group_size", 32}, {"sym", true}};
  Json settings = grid;
  settings["export"] = {"gguf", "compressed-tensors"};
  result({"run", config("out", settings)});
  const fs::path out = folder_ / "out", packed = out / "compressed-tensors";
  EXPECT_FALSE(fs::exists(out / "config.json"));
  EXPECT_NE(log_.find("llama-cli -m " + (out / "model.gguf").string()), std::string::npos) << log_;
  expect_same_weights(packed, out / "model.gguf");
  EXPECT_EQ(result({"export", packed, "--format", "gguf"})["folder"].get<std::string>(), (packed / "gguf").string());
  EXPECT_EQ(read_file(packed / "gguf" / "model.gguf").size(), read_file(out / "model.gguf").size());
  expect_same_weights(packed, packed / "gguf");

  const Json table = result({"compare", "examples/tiny-llama/model", packed, out / "model.gguf", "--data",
                             "examples/tiny-llama/eval.jsonl", "--seqlen", "32", "--windows", "4", "--threads", "1"});
  for (const char* key : {"perplexity", "kl", "top1"}) EXPECT_EQ(table["models"][1][key], table["models"][2][key]);
  EXPECT_EQ(table["models"][2]["bits_per_weight"], 4.5);
  EXPECT_FALSE(result({"generate", out / "model.gguf", "--prompt", "Once upon a time", "--tokens", "8"}).empty());

  EXPECT_NE(error({"export", out / "model.gguf", "--format", "dense", "--out", folder_ / "none"}).find("GGUF"),
            std::string::npos);
  EXPECT_NE(error({"run", config("none", {{"wbits", 8}, {"export", "gguf"}})})
                .find("gguf has no place for asymmetric weights of 8 bits (model.layers.0.self_attn.q_proj); use "
                      "compressed-tensors, gptq or dense"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

TEST_F(Formats, WhatAFormatCannotHoldIsRefusedBeforeAnyWork) {
  const std::string text = error({"run", config("out", {{"wbits", 5}, {"export", {"dense", "gptq"}}})});
  EXPECT_NE(text.find("gptq has no place for weights of 5 bits (model.layers.0.self_attn.q_proj); use "
                      "compressed-tensors, dense or gguf"),
            std::string::npos)
      << text;
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  EXPECT_NE(error({"plan", config("out", {{"abits", 8}, {"export", "gptq"}})}).find("activations of 8 bits"),
            std::string::npos);
  result({"run", config("wide", {{"wbits", 6}})});
  EXPECT_NE(error({"export", folder_ / "wide", "--format", "gptq"}).find("weights of 6 bits"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "wide" / "gptq"));
}

TEST_F(Formats, CompareMeasuresAgainstTheFirst) {
  result(
      {"run",
       config("out", {{"wbits", 4}, {"group_size", 32}, {"sym", true}, {"export", {"compressed-tensors", "gptq"}}})});
  const std::string model = "examples/tiny-llama/model", data = "examples/tiny-llama/eval.jsonl";
  const Json table = result({"compare", model, folder_ / "out", folder_ / "out" / "gptq", "--data", data, "--seqlen",
                             "32", "--windows", "4", "--threads", "1"});
  ASSERT_EQ(table["models"].size(), 3u);
  const Json &reference = table["models"][0], &packed = table["models"][1], &gptq = table["models"][2];
  EXPECT_FALSE(reference.contains("kl"));
  EXPECT_EQ(reference["bits_per_weight"], 16);
  EXPECT_EQ(packed["perplexity"], gptq["perplexity"]);
  EXPECT_EQ(packed["kl"], gptq["kl"]);
  // 4 bits and an f16 step for 32 columns; gptq has zero points and the groups of the inputs besides.
  EXPECT_NEAR(packed["bits_per_weight"].get<double>(), 4.5, 0.02);
  EXPECT_GT(gptq["bits_per_weight"], packed["bits_per_weight"]);
  EXPECT_LT(packed["bytes"], reference["bytes"]);
  const Json alone = result({"eval", folder_ / "out", "--data", data, "--seqlen", "32", "--windows", "4", "--reference",
                             model, "--threads", "1"});
  for (const char* key : {"perplexity", "kl", "top1"}) EXPECT_EQ(alone[key], packed[key]) << key;
  EXPECT_NE(error({"compare", model, "--data", data, "--seqlen", "4096"}).find("--seqlen"), std::string::npos);
}

}  // namespace
}  // namespace cbq
