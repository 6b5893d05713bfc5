// Runs of `cbq run` that were killed, stopped or hit by numbers that are not finite go on to the same result; killed
// ones on a GPU too, where there is one.
#include <chrono>
#include <csignal>
#include <thread>

#include "core/rng.h"
#include "cpu/open.h"
#include "models/model.h"
#include "tests/run_fixture.h"

namespace cbq {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

TEST_P(RunOn, AKilledRunGoesOnToTheSameBytes) {
  const std::vector<std::string> settings{"nsamples=24", "epochs=2", "homologous=true",
                                          "cfp=paper",   "abits=8",  "rounding=lora"};
  const auto start = std::chrono::steady_clock::now();
  run("whole", settings);
  const auto whole = std::chrono::steady_clock::now() - start;
  Rng rng(std::uint64_t(std::chrono::system_clock::now().time_since_epoch().count()));
  int killed = 0;
  for (int attempt = 0; attempt < 40 && killed < 5; ++attempt) {
    const Program program(folder_.path(), arguments("killed", settings));
    std::this_thread::sleep_for(whole * (0.1 + 0.8 * rng.uniform()));
    program.send(SIGKILL);
    if (program.wait() == 0)
      fs::remove_all(folder_ / "killed");  // it was faster: start over
    else
      ++killed;
  }
  EXPECT_EQ(killed, 5);
  run("killed", settings);
  EXPECT_EQ(results("whole"), results("killed"));
  EXPECT_EQ(metrics("whole"), metrics("killed"));
}

// GPTQ's weights are part of the state: a resumed run cannot see the blocks as they were.
TEST_F(Run, StoppedBetweenWindowsAStartFromGptqGoesOnToTheSameBytes) {
  const std::vector<std::string> settings{"rounding_start=gptq", "nsamples=24", "epochs=4", "cfp=paper", "abits=8"};
  run("whole", settings);
  int stopped = 0;
  for (int attempt = 0; attempt < 6; ++attempt) {
    const Program program(folder_.path(), arguments("stopped", settings));
    const auto lines = [&] {
      const fs::path metrics = folder_ / "stopped" / "metrics.jsonl";
      const std::string text = fs::exists(metrics) ? read_file(metrics) : "";
      return std::count(text.begin(), text.end(), '\n');
    };
    for (int wait = 0; wait < 4000 && lines() <= stopped; ++wait)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    program.send(SIGKILL);
    if (program.wait() == 0) break;
    ++stopped;
  }
  EXPECT_GE(stopped, 2);
  run("stopped", settings);
  EXPECT_EQ(results("whole"), results("stopped"));
  EXPECT_EQ(metrics("whole"), metrics("stopped"));
}

TEST_F(Run, StopsOnInterruptAndGoesOn) {
  const std::vector<std::string> settings{"nsamples=40", "epochs=40"};
  const Program program(folder_.path(), arguments("out", settings));
  for (int wait = 0; wait < 2000 && !fs::exists(folder_ / "out" / "metrics.jsonl"); ++wait)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  program.send(SIGINT);
  EXPECT_EQ(program.wait(), 1);
  EXPECT_NE(program.err().find("the same command goes on"), std::string::npos) << program.err();
  EXPECT_FALSE(fs::exists(folder_ / "out" / "config.json"));
  report_command({folder_ / "out"});
  EXPECT_NE(read_file(folder_ / "out" / "report.html").find("The run is not finished"), std::string::npos);
}

TEST_F(Run, AFinishedRunIsOnlyReported) {
  const Json first = run("out");
  const auto written = fs::last_write_time(folder_ / "out" / "model.safetensors");
  EXPECT_EQ(run("out"), first);
  EXPECT_EQ(fs::last_write_time(folder_ / "out" / "model.safetensors"), written);
}

TEST_F(Run, RefusesToGoOnWithSomethingElse) {
  run("out");
  EXPECT_NE(error("out", {"wbits=4"}, 2).find("wbits"), std::string::npos);
  write_file(folder_ / "other.jsonl", read_file("examples/tiny-llama/calib.jsonl") + "{\"text\": \"One more.\"}\n");
  EXPECT_NE(error("out", {"dataset=" + std::string(folder_ / "other.jsonl")}, 2).find("dataset"), std::string::npos);
  fs::create_directory(folder_ / "foreign");
  write_file(folder_ / "foreign" / "thesis.txt", "not ours");
  EXPECT_NE(error("foreign", {}, 2).find("thesis.txt"), std::string::npos);
}

// The example in f32 with one norm so large that the block behind it overflows.
void write_overflowing_model(Context& ctx, const fs::path& folder) {
  fs::copy("examples/tiny-llama/model", folder);
  Json config = Json::parse(read_file(folder / "config.json"));
  config["dtype"] = config["torch_dtype"] = "float32";
  write_file(folder / "config.json", config.dump());
  const Checkpoint source("examples/tiny-llama/model");
  std::vector<TensorSpec> specs;
  for (const std::string& name : source.names()) specs.push_back({name, DType::f32, source.info(name).shape});
  SafetensorsWriter writer(folder / "model.safetensors", specs);
  for (const TensorSpec& spec : specs) {
    std::vector<float> values = to_host<float>(ctx, source.load(ctx, spec.name, spec.shape, DType::f32));
    if (spec.name == "model.layers.1.post_attention_layernorm.weight")
      for (float& v : values) v *= 1e30f;
    writer.write(spec.name, std::as_bytes(std::span(values)));
  }
  writer.finish();
}

TEST_F(Run, ALossThatIsNotFiniteIsRetriedThenStops) {
  write_overflowing_model(*cpu::open(1), folder_ / "model");
  const std::string model = "model=" + std::string(folder_ / "model");
  const std::string text = error("out", {model}, 1);
  EXPECT_NE(text.find("the loss of blocks 0 .. 1 was not finite"), std::string::npos) << text;
  EXPECT_NE(text.find("tenth of the rate"), std::string::npos) << text;
  EXPECT_TRUE(fs::exists(folder_ / "out" / ".cbq")) << "the state is kept";
  EXPECT_FALSE(fs::exists(folder_ / "out" / "config.json"));
}

}  // namespace
}  // namespace cbq
