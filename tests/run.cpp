// `cbq run` end to end on examples/tiny-llama: what it writes, what memory it takes, and that it repeats; the last two
// on a GPU too, where there is one.
#include <cmath>

#include "cpu/open.h"
#include "models/model.h"
#include "tests/html_reader.h"
#include "tests/run_fixture.h"

namespace cbq {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

TEST_F(Run, WritesWhatItPrints) {
  const Json report = run(
      "out", {"wbits=2", "abits=8", "nsamples=64", "seqlen=128", "batch_size=4", "eval.seqlen=128", "eval.windows=48"});
  const Json& results = report["results"];
  EXPECT_GT(results["nearest"]["kl"], results["quantised"]["kl"]);
  EXPECT_EQ(results["full_precision"]["kl"], 0);
  const Program eval(folder_.path(),
                     {"eval", folder_ / "out", "--data", "examples/tiny-llama/eval.jsonl", "--seqlen", "128",
                      "--windows", "48", "--reference", "examples/tiny-llama/model", "--threads", "1", "--json"});
  ASSERT_EQ(eval.wait(), 0) << eval.err();
  const Json measured = Json::parse(eval.out());
  EXPECT_EQ(measured["perplexity"], results["quantised"]["perplexity"]);
  EXPECT_EQ(measured["kl"], results["quantised"]["kl"]);
  EXPECT_EQ(measured["top1"], results["quantised"]["top1"]);
  for (const char* key : {"config", "results", "after_block", "texts", "size", "time_s", "time_floor_s",
                          "peak_memory_bytes", "versions", "files"})
    EXPECT_TRUE(report.contains(key)) << key;
  EXPECT_EQ(Json::parse(read_file(folder_ / "out" / "report.json")), report);
}

TEST_F(Run, WritesWhatItPrintsAsGguf) {
  const Json report = run("out", {"method=rtn", "wbits=4", "sym=true", "group_size=32", "export=gguf",
                                  "eval.seqlen=128", "eval.windows=8"});
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/config.json"));
  const Program eval(folder_.path(), {"eval", folder_ / "out/model.gguf", "--data", "examples/tiny-llama/eval.jsonl",
                                      "--seqlen", "128", "--windows", "8", "--threads", "1", "--json"});
  ASSERT_EQ(eval.wait(), 0) << eval.err();
  EXPECT_EQ(Json::parse(eval.out())["perplexity"], report["results"]["quantised"]["perplexity"]);
}

TEST_F(Run, WritesAPageWithItsNumbers) {
  const Json report = run("out", {"cfp=paper", "abits=8"});
  const std::string page = read_file(folder_ / "out" / "report.html");
  const HtmlElement html = HtmlReader(page).read();
  for (const auto& [key, name] : {std::pair("full_precision", "Full precision"),
                                  std::pair("nearest", "Round to nearest"), std::pair("quantised", "Quantised")}) {
    const Json& quality = report["results"][key];
    const std::vector<double> shown = row_numbers(html, name);
    ASSERT_EQ(shown.size(), 5u) << name;
    EXPECT_EQ(shown[0], quality["perplexity"]) << name;
    EXPECT_EQ(shown[1], quality["kl"]) << name;
    EXPECT_EQ(shown[2], quality["top1"]) << name;
  }
  EXPECT_EQ(row_numbers(html, "Quantised")[4], double(fs::file_size(folder_ / "out" / "model.safetensors")));
  for (const Json& window : metrics("out"))
    for (const Json& block : window["finished"])
      for (const Json& linear : block["linears"]) {
        const std::string name = std::to_string(block["layer"].get<int>()) + " " + linear["name"].get<std::string>();
        EXPECT_EQ(row_numbers(html, name)[1], linear["error"]) << name;
        EXPECT_LE(linear["clip_lowest"], linear["clip_highest"]) << name;
      }
  EXPECT_EQ(all_of(html, "figure").size(), 18u);
  const Json& last = report["after_block"]["quantised"].back();
  EXPECT_GT(last["kl"], 0);
  EXPECT_LT(last["error"], 1);
  for (const Json& text : report["texts"]) EXPECT_TRUE(text.contains("before") && text.contains("after")) << text;
  // The same page again from what is saved, and two runs on one page.
  write_file(folder_ / "out" / "report.html", "");
  EXPECT_EQ(report_command({folder_ / "out"}), std::string(folder_ / "out" / "report.html") + "\n");
  EXPECT_EQ(read_file(folder_ / "out" / "report.html"), page);
  run("other", {"wbits=4", "eval.prompts=[]"});
  report_command({folder_ / "out", folder_ / "other", "--out", folder_ / "both.html"});
  const HtmlElement both = HtmlReader(read_file(folder_ / "both.html")).read();
  EXPECT_EQ(row_numbers(both, "out")[2], report["results"]["quantised"]["perplexity"]);
  EXPECT_EQ(row_numbers(both, "other").size(), 10u);
}

TEST_F(Run, PackedAndDenseHoldTheSameWeights) {
  run("packed", {"group_size=16"});
  run("dense", {"group_size=16", "export=dense"});
  const auto ctx = cpu::open(1);
  const Model packed(*ctx, folder_ / "packed"), dense(*ctx, folder_ / "dense");
  for (std::int64_t layer = 0; layer < packed.config().layers; ++layer) {
    const BlockWeights a = packed.block_weights(layer), b = dense.block_weights(layer);
    for (const LinearRole role : linear_roles(packed.config().family))
      EXPECT_EQ(to_host<float>(*ctx, a[role].weight.value), to_host<float>(*ctx, b[role].weight.value)) << layer;
  }
}

TEST_P(RunOn, TwoRunsWithOneSeedGiveEqualBytes) {
  run("a");
  run("b");
  run("c", {"seed=1"});
  EXPECT_EQ(results("a"), results("b"));
  EXPECT_NE(results("a"), results("c"));
}

TEST_P(RunOn, EveryMethodAndKindRunsThrough) {
  const std::vector<std::vector<std::string>> variants{
      {"method=rtn"},
      {"method=rtn", "cfp=paper", "abits=4"},
      {"method=gptq"},
      {"method=gptq", "abits=4", "group_size=32", "act_order=false"},
      {"rounding=nearest"},
      {"rounding=lora", "rank=2"},
      {"rounding_start=gptq", "abits=8", "homologous=true"},
      {"rounding_start=gptq", "rounding=weights", "cfp=paper", "window=3", "overlap=2", "window_schedule=grow"},
      {"rounding=dense"},
      {"rounding=sign", "sym=true"},
      {"rounding=weights", "batch_size=4"},
      {"window=3", "overlap=2", "window_schedule=grow"},
      {"window=4", "overlap=0", "homologous=true"},
      {"cfp=paper", "abits=8", "act_sym=false"},
      {"cfp=msmodelslim", "abits=4", "kv_bits=8"},
      {"kl=0", "learn_scale=false", "learn_activation=false", "abits=6"},
      {R"(overrides=[{"match": "*.down_proj", "wbits": 8}, {"match": "*layers.0*", "wbits": 16}])"}};
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const Json report = run("variant" + std::to_string(i), variants[i]);
    ASSERT_FALSE(report.is_null()) << variants[i][0];
    EXPECT_TRUE(std::isfinite(report["results"]["quantised"]["kl"].get<double>())) << variants[i][0];
    EXPECT_LT(report["results"]["quantised"]["kl"], 4.0) << variants[i][0];
    const double planned = report["memory_plan"]["device_bytes"].get<double>();
    EXPECT_NEAR(planned / report["peak_memory_bytes"]["reconstruct"].get<double>(), 1, 0.1) << variants[i][0];
  }
}

// Errors and moved integers are counted from the model's own weights, not from those that GPTQ put in their place.
TEST_F(Run, StatisticsOfGptqAreThoseOfTheModelsWeights) {
  run("gptq", {"method=gptq", "eval.data=[]"});
  run("nearest", {"method=rtn", "eval.data=[]"});
  const Json gptq = metrics("gptq")[0]["finished"][0]["linears"],
             nearest = metrics("nearest")[0]["finished"][0]["linears"];
  ASSERT_EQ(gptq.size(), 7u);
  for (std::size_t i = 0; i < gptq.size(); ++i) {
    EXPECT_EQ(gptq[i]["nearest_error"], nearest[i]["error"]) << i;
    EXPECT_GT(gptq[i]["error"], nearest[i]["error"]) << i;
    EXPECT_GT(gptq[i]["moved_share"], 0) << i;
    EXPECT_EQ(nearest[i]["moved_share"], 0) << i;
  }
}

TEST_F(Run, AStartFromGptqBeatsOneFromNearest) {
  const auto kl = [&](const std::string& start) {
    return run(start, {"rounding_start=" + start, "lr=1e-3", "lr_scale=1e-4", "wbits=4", "nsamples=64", "seqlen=128",
                       "eval.seqlen=128", "eval.windows=32"})["results"]["quantised"]["kl"]
        .get<double>();
  };
  EXPECT_LT(kl("gptq"), 0.9 * kl("nearest"));
}

TEST_F(Run, SaysWhatTheCalibrationTextLacks) {
  write_file(folder_ / "short.txt", "A short text.");
  const std::string text = error("out", {"dataset=" + std::string(folder_ / "short.txt")}, 2);
  EXPECT_NE(text.find("short.txt"), std::string::npos) << text;
  EXPECT_NE(text.find("need more than 32 tokens, found"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(folder_ / "out" / "config.json"));
}

}  // namespace
}  // namespace cbq
