// The page of a run: well-formed whatever is in it, its numbers those of report.json, its charts where they should be.
#include <gtest/gtest.h>

#include <cmath>

#include "core/files.h"
#include "quant/report/page.h"
#include "tests/error_text.h"
#include "tests/html_reader.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

using Json = nlohmann::ordered_json;

HtmlElement parsed(const std::string& page) {
  return HtmlReader(page).read();
}

Json linear(const std::string& name, double error) {
  return {{"name", name},          {"bits", 2},           {"weights", 100},      {"error", error},
          {"nearest_error", 0.31}, {"moved_share", 0.07}, {"clip_lowest", 0.41}, {"clip_median", 0.72},
          {"clip_highest", 1.01}};
}

Json window(int index, int blocks_done) {
  Json line = {{"window", index},      {"start_distance", 1.25}, {"end_distance", 0.625},
               {"losses", {0.9, 0.5}}, {"seconds", 2.5},         {"peak_bytes", 3'000'000}};
  line["entered"] = Json::array(
      {{{"layer", index},
        {"linears",
         Json::array({{{"name", "mlp.up_proj"}, {"weights", 100}, {"outliers", 3}, {"largest", 2.0}, {"kept", 0.5}}})},
        {"sites", Json::array({{{"name", "mlp_in"},
                                {"channels", 4},
                                {"scaled", 1},
                                {"largest_before", 30.0},
                                {"largest_after", 5.0},
                                {"before", {1, 2, 30, 1}},
                                {"after", {1, 2, 5, 1}}}})}}});
  line["finished"] = Json::array();
  for (int b = 0; b < blocks_done; ++b)
    line["finished"].push_back(
        {{"layer", index + b},
         {"linears", Json::array({linear("self_attn.q_proj", 0.29), linear("mlp.up_proj", 0.33)})}});
  return line;
}

// A run of `blocks` blocks in windows of two.
RunRecord example(int blocks = 3) {
  RunRecord run{"w2", Json(), {}};
  run.report = Json::parse(R"({
    "config": {"model": "/models/tiny/model", "wbits": 2, "abits": 16, "method": "cbq", "window": 2, "rounding": "sign",
               "seed": 7, "nsamples": 4, "seqlen": 32, "eval": {"windows": 8}},
    "model": {"architecture": "LlamaForCausalLM", "blocks": 3, "parameters": 787584},
    "results": {"full_precision": {"perplexity": 1.4358278900182253, "kl": 0.0, "top1": 1.0,
                                   "tokens": 34816},
                "nearest": {"perplexity": 1.685714999280312, "kl": 0.15732741805262182,
                            "top1": 0.8699448529411765, "tokens": 34816},
                "quantised": {"perplexity": 1.5420109058612468, "kl": 0.06846320094391091,
                              "top1": 0.8939568014705882, "tokens": 34816}},
    "texts": [{"prompt": "Once", "before": " upon a time", "after": " upon <a> time"}],
    "size": {"bits_per_weight": 2.125, "stored_bits": 16, "source_bytes": 1579264, "bytes": 565696},
    "versions": {"program": "0.1.0", "commit": "639062f", "compiler": "g++", "backend": "cpu",
                 "device": "CPU", "compute_dtype": "f32"},
    "files": {"model": [{"path": "/models/tiny/model/model.safetensors", "bytes": 1579264,
                         "hash": "1ec9cb2cf9df76d7"}]},
    "time_s": {"prepare": 0.25, "reconstruct": 5.0, "evaluate": 1.5},
    "time_floor_s": {"reconstruct": 3.75},
    "peak_memory_bytes": {"prepare": 1000, "reconstruct": 3000000, "evaluate": 2000, "process": 268394496},
    "memory_plan": {"device": [{"what": "activation streams", "bytes": 2900000}],
                    "device_bytes": 2900000, "expected_s": 5.5}})");
  Json nearest = Json::array(), quantised = Json::array();
  for (int b = 0; b < blocks; ++b) {
    nearest.push_back({{"kl", 0.2 * (b + 1)}, {"error", 0.4}});
    quantised.push_back({{"kl", 0.1 * (b + 1)}, {"error", 0.3}});
  }
  run.report["after_block"] = {{"nearest", nearest}, {"quantised", quantised}};
  for (int w = 0; w + 1 < blocks; ++w) run.windows.push_back(window(w, w + 2 == blocks ? 2 : 1));
  return run;
}

TEST(Report, ShowsTheNumbersOfTheRun) {
  const RunRecord run = example();
  const HtmlElement page = parsed(run_page(run));
  const auto result = [&](const char* key, double bits, double bytes) {
    const Json& quality = run.report["results"][key];
    return std::vector<double>{quality["perplexity"], quality["kl"], quality["top1"], bits, bytes};
  };
  EXPECT_EQ(row_numbers(page, "Full precision"), result("full_precision", 16, 1579264));
  EXPECT_EQ(row_numbers(page, "Round to nearest"), result("nearest", 2.125, 565696));
  EXPECT_EQ(row_numbers(page, "Quantised"), result("quantised", 2.125, 565696));
  EXPECT_EQ(row_numbers(page, "2 mlp.up_proj"), (std::vector<double>{2, 0.33, 0.31, 0.07, 0.41, 0.72, 1.01}));
  EXPECT_EQ(row_numbers(page, "0 mlp.up_proj"), (std::vector<double>{2, 0.33, 0.31, 0.07, 0.41, 0.72, 1.01}));
  EXPECT_EQ(row_numbers(page, "Reconstruct"), (std::vector<double>{5, 3.75, 5.5, 3000000}));
  EXPECT_EQ(row_numbers(page, "Sum, the plan"), (std::vector<double>{2900000}));
  EXPECT_EQ(row_numbers(page, "/models/tiny/model/model.safetensors"), (std::vector<double>{1579264}));
  for (const char* part :
       {"1ec9cb2cf9df76d7", "639062f", "Seed 7", "eval.windows", "Once upon a time", "Once upon <a> time"})
    EXPECT_NE(page.text.find(part), std::string::npos) << part;
}

TEST(Report, DrawsEveryChart) {
  const HtmlElement page = parsed(run_page(example()));
  std::vector<std::string> titles;
  for (const HtmlElement* figure : all_of(page, "figure")) {
    titles.push_back(all_of(*figure, "figcaption")[0]->text);
    EXPECT_EQ(all_of(*figure, "svg").size(), 1u) << titles.back();
    const HtmlElement& svg = *all_of(*figure, "svg")[0];
    EXPECT_GE(all_of(svg, "path").size() + all_of(svg, "rect").size(), 1u) << titles.back();
    EXPECT_GE(all_of(svg, "text").size(), 4u) << titles.back() << ": axes";
    EXPECT_GE(all_of(svg, "title").size(), 1u) << titles.back() << ": tooltips";
    EXPECT_EQ(svg.text.find("nan"), std::string::npos) << titles.back();
  }
  EXPECT_EQ(titles.size(), 12u);
}

// Whatever is in the folder's name, the config and what a model wrote.
TEST(Report, EscapesWhatIsHostile) {
  const std::string evil =
      "</title></style><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;\x01\xff\xc0\xaf";
  RunRecord run = example();
  run.name = evil;
  for (const char* key : {"model", "method", "rounding"}) run.report["config"][key] = "/a/" + evil;
  run.report["config"][evil] = evil;
  run.report["model"]["architecture"] = evil;
  run.report["texts"] =
      Json::array({{{"prompt", evil}, {"before", evil}, {"after", evil}}, {{"prompt", evil}, {"skipped", evil}}});
  run.report["versions"]["device"] = run.report["versions"]["commit"] = evil;
  run.report["files"]["model"][0]["path"] = run.report["files"]["model"][0]["hash"] = evil;
  run.report["time_s"][evil] = 1;
  run.report["memory_plan"]["device"][0]["what"] = evil;
  run.windows[0]["finished"][0]["linears"][0]["name"] = run.windows[0]["entered"][0]["sites"][0]["name"] = evil;
  run.windows[0]["entered"][0]["linears"][0]["name"] = evil;
  RunRecord other = example();
  const std::vector<RunRecord> runs{run, other};
  for (const std::string& text : {run_page(run), comparison_page(runs)}) {
    const HtmlElement page = parsed(text);
    for (const char* name : {"script", "img"}) EXPECT_TRUE(all_of(page, name).empty()) << name;
    EXPECT_EQ(all_of(page, "style").size(), 1u);
    EXPECT_NE(page.text.find("<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&lt;"), std::string::npos);
    EXPECT_EQ(text.find('\x01'), std::string::npos);
    EXPECT_EQ(text.find('\xff'), std::string::npos);
  }
}

// A page is made of what is there: no run at all, baselines that learn nothing, numbers that are none.
TEST(Report, TakesWhatIsMissing) {
  const auto is_whole = [](const RunRecord& run) {
    const HtmlElement page = parsed(run_page(run));
    EXPECT_EQ(all_of(page, "h1").size(), 1u);
    parsed(comparison_page(std::vector<RunRecord>{run, run}));
    return page.text;
  };
  EXPECT_NE(is_whole({"empty", Json::object(), {}}).find("not finished: 0 windows are done"), std::string::npos);
  RunRecord unfinished = example();
  unfinished.report = {{"config", unfinished.report["config"]}};
  unfinished.windows.resize(1);
  EXPECT_NE(is_whole(unfinished).find("not finished: 1 window is done"), std::string::npos);
  RunRecord unmeasured = example();
  unmeasured.report["results"] = Json::object();
  EXPECT_NE(is_whole(unmeasured).find("Nothing was evaluated"), std::string::npos);
  RunRecord baseline = example();
  for (Json& line : baseline.windows) {
    line["start_distance"] = line["end_distance"] = nullptr;
    line["losses"] = line["entered"] = Json::array();
  }
  EXPECT_EQ(is_whole(baseline).find("Training loss"), std::string::npos);
  // Every value in turn replaced by one of another type.
  const RunRecord whole = example();
  const Json report_values = whole.report.flatten(), window_values = whole.windows[0].flatten();
  for (const auto& [pointer, value] : report_values.items())
    for (const Json& wrong : {Json(nullptr), Json("x"), Json(-1e300), Json::array({1}), Json({{"a", 1}})}) {
      RunRecord run = whole;
      run.report[Json::json_pointer(pointer)] = wrong;
      is_whole(run);
    }
  for (const auto& [pointer, value] : window_values.items())
    for (const Json& wrong : {Json(nullptr), Json("x"), Json(-1e300), Json::array({1}), Json({{"a", 1}})}) {
      RunRecord run = whole;
      run.windows[0][Json::json_pointer(pointer)] = wrong;
      is_whole(run);
    }
}

TEST(Report, StaysReadableWithEightyBlocks) {
  const std::string text = run_page(example(80));
  const HtmlElement page = parsed(text);
  EXPECT_LT(text.size(), 2'000'000u);
  EXPECT_EQ(row_numbers(page, "79 mlp.up_proj").size(), 7u);
  for (const HtmlElement* svg : all_of(page, "svg"))
    EXPECT_LT(all_of(*svg, "text").size(), 40u) << svg->attributes.at("aria-label");
}

TEST(Report, ComparesRuns) {
  std::vector<RunRecord> runs{example(), example()};
  runs[1].name = "w3";
  runs[1].report["config"]["wbits"] = 3;
  runs[1].report["results"]["quantised"]["perplexity"] = 1.46;
  const HtmlElement page = parsed(comparison_page(runs));
  EXPECT_EQ(row_numbers(page, "w2")[2], 1.5420109058612468);
  EXPECT_EQ(row_numbers(page, "w3")[2], 1.46);
  const auto rows = all_of(page, "tr");
  const auto row = [&](const std::string& name) {
    return std::ranges::count_if(rows, [&](const HtmlElement* r) { return r->children[0].text == name; });
  };
  EXPECT_EQ(row("wbits"), 1) << "differs";
  EXPECT_EQ(row("abits"), 0) << "is the same";
}

TEST(RunRecord, ReadsFinishedAndUnfinishedRuns) {
  const TempFolder temp;
  std::filesystem::create_directory(temp / "run");
  const auto error = [&] { return error_text([&] { read_run_record(temp / "run"); }); };
  EXPECT_NE(error().find("neither report.json nor run_config.json"), std::string::npos);
  write_file(temp / "run" / "run_config.json", R"({"wbits": 4, "abits": 8})");
  write_file(temp / "run" / "metrics.jsonl", "{\"window\": 0}\n{\"window\": 1}\n");
  RunRecord record = read_run_record(temp / "run/");
  EXPECT_EQ(record.name, "run");
  EXPECT_EQ(record.report, (Json{{"config", {{"wbits", 4}, {"abits", 8}}}}));
  EXPECT_EQ(record.windows.size(), 2u);
  write_file(temp / "run" / "report.json", R"({"results": {}})");
  EXPECT_TRUE(read_run_record(temp / "run").report.contains("results"));
  write_file(temp / "run" / "metrics.jsonl", "{\"window\": 0}\n{\"window\"\n");
  EXPECT_NE(error().find("metrics.jsonl, line 2:1:"), std::string::npos) << error();
  write_file(temp / "run" / "report.json", "[]");
  EXPECT_NE(error().find("report.json: expected an object"), std::string::npos) << error();
}

}  // namespace
}  // namespace cbq
