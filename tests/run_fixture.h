// `cbq run` on examples/tiny-llama in a folder that goes away, on the CPU or on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/gpu_or_skip.h"
#include "tests/program.h"
#include "tests/temp_folder.h"

namespace cbq {

class Run : public testing::Test {
 protected:
  // A run small enough for a second: settings come on top.
  std::vector<std::string> arguments(const std::string& output, std::vector<std::string> settings) {
    const std::filesystem::path example = std::filesystem::absolute("examples/tiny-llama");
    nlohmann::json config{{"model", example / "model"},
                          {"output_dir", folder_ / output},
                          {"dataset", example / "calib.jsonl"},
                          {"nsamples", 6},
                          {"heldout", 2},
                          {"seqlen", 32},
                          {"epochs", 1},
                          {"wbits", 3},
                          {"eval", {{"data", {example / "eval.jsonl"}}, {"seqlen", 32}, {"windows", 8}}}};
    config["device"] = device_ == Device::cuda ? "cuda" : "cpu";
    write_file(folder_ / "config.json", config.dump(1));
    std::vector<std::string> words{"run", folder_ / "config.json", "--json", "--set", "threads=1"};
    for (std::string& setting : settings) words.insert(words.end(), {"--set", setting});
    return words;
  }
  nlohmann::json run(const std::string& output, std::vector<std::string> settings = {}) {
    const Program program(folder_.path(), arguments(output, std::move(settings)));
    const int code = program.wait();
    EXPECT_EQ(code, 0) << program.err();
    return code == 0 ? nlohmann::json::parse(program.out()) : nlohmann::json();
  }
  std::string error(const std::string& output, std::vector<std::string> settings, int exit_code) {
    const Program program(folder_.path(), arguments(output, std::move(settings)));
    EXPECT_EQ(program.wait(), exit_code) << program.err();
    return program.err();
  }
  // Bytes of the files that must not depend on when or how often a run was started.
  std::map<std::string, std::string> results(const std::string& output) {
    std::map<std::string, std::string> files;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / output))
      if (const std::string name = entry.path().filename(); entry.is_regular_file() && !name.starts_with("report.") &&
                                                            name != "metrics.jsonl" && name != "run_config.json")
        files[name] = read_file(entry.path());
    return files;
  }
  // The lines of metrics.jsonl without what differs from one run to the next: time and memory.
  std::vector<nlohmann::json> metrics(const std::string& output) {
    std::vector<nlohmann::json> windows;
    std::istringstream lines(read_file(folder_ / output / "metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      windows.push_back(nlohmann::json::parse(line));
      for (const char* key : {"seconds", "peak_bytes", "process_bytes"})
        EXPECT_EQ(windows.back().erase(key), 1u) << key;
    }
    return windows;
  }
  std::string report_command(std::vector<std::string> words) {
    words.insert(words.begin(), "report");
    const Program program(folder_.path(), words);
    EXPECT_EQ(program.wait(), 0) << program.err();
    return program.out();
  }
  TempFolder folder_;
  Device device_ = Device::cpu;
};

class RunOn : public Run, public testing::WithParamInterface<Device> {
 protected:
  void SetUp() override {
    CBQ_SKIP_WITHOUT_GPU(GetParam());
    device_ = GetParam();
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, RunOn, testing::Values(Device::cpu, Device::cuda),
                         [](const auto& device) { return device.param == Device::cpu ? "cpu" : "gpu"; });

}  // namespace cbq
