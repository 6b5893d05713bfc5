// Drives the built program: exit codes, one line of error, and what goes to which stream.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "cpu/open.h"
#include "tests/program.h"
#include "tests/tiny_model.h"

namespace cbq {

namespace {

struct Finished {
  int exit_code;
  std::string out, err;
};

class Cli : public testing::Test {
 protected:
  Finished run(const std::vector<std::string>& arguments, StandardOutput output = StandardOutput::file) {
    const Program program(folder_.path(), arguments, output);
    const int exit_code = program.wait();
    return {exit_code, program.out(), program.err()};
  }

  // The one line on standard error, checked to be one, without "cbq: error: ".
  std::string error_of(const std::vector<std::string>& arguments, int exit_code = 2,
                       StandardOutput output = StandardOutput::file) {
    const Finished f = run(arguments, output);
    EXPECT_EQ(f.exit_code, exit_code) << f.err;
    EXPECT_TRUE(output != StandardOutput::file || f.out.empty()) << f.out;
    const std::string last =
        f.err.substr(f.err.find("cbq: error: ") == std::string::npos ? 0 : f.err.find("cbq: error: "));
    EXPECT_EQ(last.find("cbq: error: "), 0u) << f.err;
    EXPECT_EQ(std::count(last.begin(), last.end(), '\n'), 1) << f.err;
    EXPECT_TRUE(exit_code != 2 || last == f.err) << "other lines before it: " << f.err;
    return last.substr(std::min<std::size_t>(last.size(), 12));
  }

  // A model of 20 tokens with texts it can read.
  std::string tiny(const std::string& name = "model") {
    const std::filesystem::path model = folder_ / name;
    write_tiny_model(*cpu::open(1), model, {Family::llama, DType::f32});
    std::filesystem::remove(model / "tokenizer.json");
    nlohmann::json vocabulary{{"</s>", 0}, {"\u0120", 1}};  // U+0120 stands for the space
    for (int i = 0; i < 16; ++i) vocabulary[std::string(1, char('a' + i))] = 2 + i;
    write_file(model / "vocab.json", vocabulary.dump());
    write_file(model / "merges.txt", "#version: 0.2\n");
    write_file(model / "tokenizer_config.json", R"({"add_bos_token": false})");
    return model;
  }
  std::string text(const std::string& name, const std::string& contents) {
    write_file(folder_ / name, contents);
    return folder_ / name;
  }
  std::string long_text() { return text("long.txt", std::string(100, 'a') + " bad cab face"); }

  TempFolder folder_;
};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST_F(Cli, HelpAndVersion) {
  EXPECT_EQ(run({"--version"}).out.find("cbq "), 0u);
  EXPECT_EQ(run({"--version"}).exit_code, 0);
  for (const std::string command :
       {"run", "plan", "report", "train", "eval", "compare", "export", "inspect", "generate"}) {
    EXPECT_TRUE(contains(run({"--help"}).out, "\n  " + command)) << command;
    const Finished help = run({command, "--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_EQ(help.err, "");
    for (const char* part : {"Usage: cbq ", "Example", "Exit codes: 0"}) EXPECT_TRUE(contains(help.out, part)) << part;
  }
  EXPECT_TRUE(contains(run({"run", "--help"}).out, "group_size"));
}

TEST_F(Cli, Usage) {
  EXPECT_TRUE(contains(error_of({}), "cbq --help"));
  EXPECT_TRUE(contains(error_of({"evil"}), "evil"));
  EXPECT_TRUE(contains(error_of({"eval"}), "MODEL"));
  EXPECT_TRUE(contains(error_of({"eval", "m"}), "--data"));
  EXPECT_TRUE(contains(error_of({"eval", "m", "--data", "d", "--widows", "3"}), "--widows"));
  EXPECT_TRUE(contains(error_of({"eval", "m", "--data", "d", "--windows", "x"}), "--windows"));
  EXPECT_TRUE(contains(error_of({"eval", "m", "--data", "d", "--seqlen", "1"}), "--seqlen"));
  EXPECT_TRUE(contains(error_of({"eval", "m", "--data", "d", "--device", "gpu"}), "--device"));
  EXPECT_TRUE(contains(error_of({"generate", "m", "--prompt", "p", "--temperature", "-1"}), "--temperature"));
  EXPECT_TRUE(contains(error_of({"generate", tiny(), "--prompt", "a", "--temperature", "nan"}), "temperature"));
  EXPECT_TRUE(contains(error_of({"generate", "m", "--prompt", "p", "--seed", "-1"}), "--seed"));
  EXPECT_TRUE(contains(error_of({"inspect", "a\nb"}), "a b"));
  EXPECT_TRUE(contains(error_of({"report", tiny("no_run")}), "expected the output folder of a run"));
  EXPECT_TRUE(contains(error_of({"report", "a", "b"}), "--out FILE"));
}

TEST_F(Cli, Config) {
  const auto with = [&](const std::string& contents, std::vector<std::string> settings = {}) {
    std::vector<std::string> arguments{"run", text("run.json", contents)};
    if (!settings.empty()) arguments.push_back("--set");
    arguments.insert(arguments.end(), settings.begin(), settings.end());
    return error_of(arguments);
  };
  const std::string file = folder_ / "run.json", start = R"({"model": "m", "output_dir": "o", "dataset": "d")";
  EXPECT_TRUE(contains(error_of({"run", folder_ / "none.json"}), "none.json"));
  EXPECT_TRUE(contains(error_of({"run", folder_.path()}), folder_.path()));
  EXPECT_EQ(with("{\n  \"wbits\": 4,,").find(file + ":2:14: "), 0u);
  EXPECT_EQ(with("").find(file + ":1:1: "), 0u);
  EXPECT_EQ(with("[]"), file + ":1:1: expected an object, found an empty list\n");
  EXPECT_EQ(with("{}"), file + ": expected the key model, found none; add \"model\": \"FOLDER\"\n");
  EXPECT_EQ(with(start + ",\n \"wbit\": 3}"),
            file + ":2:2: expected a known key, found \"wbit\"; did you mean wbits?\n");
  EXPECT_EQ(with(start + ",\n \"wbits\": 7}"), file + ":2:2: wbits: expected 2, 3, 4, 5, 6, 8 or 16, found 7\n");
  EXPECT_EQ(with(start + "}", {"seqlen=1"}),
            "--set \"seqlen=1\": seqlen: expected an integer from 2 to 1048576, found 1\n");
  EXPECT_EQ(with(start + "}", {"wbits=3", "eval.window=2"}),
            "--set \"eval.window=2\": expected a known key, found \"eval.window\"; did you mean eval.windows?\n");
  EXPECT_TRUE(contains(with(start + "}"), folder_ / "m"));  // no such model
}

TEST_F(Cli, Eval) {
  const std::string model = tiny(), data = long_text();
  const Finished f = run({"eval", model, "--data", data, "--json", "--threads", "1"});
  ASSERT_EQ(f.exit_code, 0) << f.err;
  const auto result = nlohmann::json::parse(f.out);
  EXPECT_EQ(result["model"], model);
  EXPECT_EQ(result["data"], data);
  EXPECT_EQ(result["seqlen"], 16);
  EXPECT_EQ(result["windows"], 7);
  EXPECT_EQ(result["tokens"], 112);
  EXPECT_GT(result["perplexity"].get<double>(), 1);
  EXPECT_FALSE(result.contains("kl"));

  const Finished both =
      run({"eval", model, "--data", data, data, "--seqlen", "8", "--windows", "2", "--reference", model, "--json"});
  ASSERT_EQ(both.exit_code, 0) << both.err;
  const auto compared = nlohmann::json::parse(both.out);
  EXPECT_EQ(compared["data"].size(), 2u);
  EXPECT_EQ(compared["windows"], 4);
  EXPECT_EQ(compared["seqlen"], 8);
  EXPECT_LT(std::abs(compared["kl"].get<double>()), 1e-9);
  EXPECT_EQ(compared["top1"], 1);

  const Finished table = run({"eval", model, "--data", data, "--windows", "1", "--reference", model});
  EXPECT_EQ(table.exit_code, 0);
  for (const char* part : {"perplexity", "KL divergence", "top-1", "1 of 16 tokens"})
    EXPECT_TRUE(contains(table.out, part)) << part;
}

TEST_F(Cli, EvalErrors) {
  const std::string model = tiny(), data = long_text();
  EXPECT_TRUE(contains(error_of({"eval", folder_ / "none", "--data", data}), "none"));
  EXPECT_TRUE(contains(error_of({"eval", model, "--data", folder_ / "none.txt"}), "none.txt"));
  EXPECT_TRUE(contains(error_of({"eval", model, "--data", text("data.csv", "a")}), "data.csv"));
  EXPECT_TRUE(
      contains(error_of({"eval", model, "--data", text("broken.jsonl", "{\"text\": \"a\"}\n{")}), "broken.jsonl"));
  EXPECT_TRUE(contains(error_of({"eval", model, "--data", text("short.txt", "abc")}), "short.txt"));
  EXPECT_EQ(error_of({"eval", model, "--data", data, "--seqlen", "17"}),
            "--seqlen: expected at most 16, the positions of the model, found 17\n");
  std::filesystem::remove(model + "/model.safetensors");
  EXPECT_TRUE(contains(error_of({"eval", model, "--data", data}), model));
  std::filesystem::remove(model + "/vocab.json");
  EXPECT_TRUE(contains(error_of({"eval", model, "--data", data}), model));
  write_file(model + "/config.json", R"({"architectures": ["BertModel"]})");
  EXPECT_TRUE(contains(error_of({"eval", model, "--data", data}), "BertModel"));
}

TEST_F(Cli, Inspect) {
  const std::string model = tiny();
  const Finished f = run({"inspect", model, "--json"});
  ASSERT_EQ(f.exit_code, 0) << f.err;
  const auto result = nlohmann::json::parse(f.out);
  EXPECT_EQ(result["architecture"], "LlamaForCausalLM");
  EXPECT_EQ(result["layers"].size(), 14u);
  EXPECT_EQ(result["layers"][0]["name"], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(result["layers"][0]["shape"], (nlohmann::json{36, 36}));
  EXPECT_EQ(result["layers"][0]["wbits"], 16);
  EXPECT_EQ(result["parameters"]["embeddings"], 720);
  EXPECT_EQ(result["parameters"]["head"], 720);
  EXPECT_EQ(result["parameters"]["norms"], 180);
  EXPECT_EQ(result["parameters"]["total"].get<std::int64_t>() * 4, result["bytes"]["total"]);
  // Normal weights: the kurtosis is near 3, and a share of 1.5 % lies above the fences of |w|.
  for (const auto& layer : result["layers"]) {
    EXPECT_LT(std::abs(layer["kurtosis"].get<double>() - 3), 1.5) << layer;
    EXPECT_LT(std::abs(layer["outlier_share"].get<double>() - 0.015), 0.025) << layer;
  }
  EXPECT_TRUE(contains(run({"inspect", model}).out, "model.layers.1.mlp.down_proj"));
  EXPECT_TRUE(contains(error_of({"inspect", folder_ / "none"}), "none"));
}

TEST_F(Cli, Generate) {
  const std::string model = tiny();
  const std::vector<std::string> arguments{"generate", model, "--prompt", "abc", "--tokens", "5", "--temperature", "1"};
  const Finished first = run(arguments), second = run(arguments);
  EXPECT_EQ(first.exit_code, 0) << first.err;
  EXPECT_EQ(first.out, second.out);
  EXPECT_TRUE(first.out.ends_with("\n"));
  std::vector<std::string> as_json = arguments;
  as_json.push_back("--json");
  const auto result = nlohmann::json::parse(run(as_json).out);
  EXPECT_EQ(result["prompt"], "abc");
  EXPECT_EQ(result["text"].get<std::string>() + "\n", first.out);
  EXPECT_TRUE(contains(error_of({"generate", folder_ / "none", "--prompt", "a"}), "none"));
}

TEST_F(Cli, OutputThatCannotBeWritten) {
  const std::string model = tiny(), data = long_text();
  const std::vector<std::vector<std::string>> commands = {{"--help"},
                                                          {"eval", model, "--data", data, "--json"},
                                                          {"inspect", model},
                                                          {"generate", model, "--prompt", "a", "--tokens", "3"}};
  for (const auto& command : commands)
    for (const auto output : {StandardOutput::full_disk, StandardOutput::closed, StandardOutput::pipe_without_reader})
      EXPECT_TRUE(contains(error_of(command, 1, output), "standard output: cannot be written")) << command[0];
}

TEST_F(Cli, CudaWithoutADeviceIsAnError) {
  const Finished f = run({"eval", tiny(), "--data", long_text(), "--device", "cuda"});
  if (f.exit_code == 0) GTEST_SKIP() << "this machine has a GPU that the program can use";
  EXPECT_EQ(f.exit_code, 2);
  EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1);
}

}  // namespace

}  // namespace cbq
