#include "quant/config.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/json.h"
#include "quant/config_keys.h"
#include "tests/error_text.h"
#include "tests/mutate.h"
#include "tests/temp_folder.h"

namespace cbq {

namespace {

using nlohmann::ordered_json;

const std::string kNeeded = R"("model": "m", "output_dir": "o", "dataset": "d.txt")";

RunConfig parse(const std::string& text, const std::vector<std::string>& settings = {}) {
  return parse_run_config(text, "run.json", "/base", settings);
}
// The needed keys on line 1, `members` on line 2.
RunConfig with(const std::string& members, const std::vector<std::string>& settings = {}) {
  return parse(concat("{", kNeeded, members.empty() ? "" : ",\n ", members, "}"), settings);
}
std::string error_with(const std::string& members, const std::vector<std::string>& settings = {}) {
  return error_text([&] { with(members, settings); });
}
std::string error_of(const std::string& text) {
  return error_text([&] { parse(text); });
}

TEST(Config, DefaultsAreThoseOfTheStruct) {
  RunConfig expected;
  expected.model = "/base/m", expected.output_dir = "/base/o", expected.dataset = {"/base/d.txt"};
  EXPECT_EQ(with(""), expected);
}

TEST(Config, EveryDefaultCanBeGiven) {
  const RunConfig defaults = with("");
  const ordered_json written = to_json(defaults);
  for (const auto& [key, value] : written.items()) {
    ordered_json one{{"model", "m"}, {"output_dir", "o"}, {"dataset", "d.txt"}};
    one[key] = value;
    if (key == "eval") one[key].erase("data");
    EXPECT_EQ(parse(one.dump()), defaults) << key;
  }
}

TEST(Config, EveryKeyIsInTheHelpAndInTheFile) {
  const ordered_json written = to_json(with(""));
  const std::string help = concat("\n", config_help());
  EXPECT_EQ(written.size(), config_keys().size() - 3);  // four keys share the object eval
  for (const ConfigKey& key : config_keys())
    EXPECT_NE(help.find(concat("\n  ", key.name, " ")), std::string::npos) << key.name;
}

TEST(Config, LearningRatesFollowTheKind) {
  const struct {
    RoundingKind kind;
    double rounding, scale;
    Schedule schedule;
  } cases[] = {
      {RoundingKind::lora, 1e-2, 1e-4, Schedule::cosine},    {RoundingKind::lora_ste, 1e-2, 1e-3, Schedule::cosine},
      {RoundingKind::dense, 1e-2, 1e-4, Schedule::cosine},   {RoundingKind::sign, 5e-3, 5e-3, Schedule::linear},
      {RoundingKind::weights, 2e-4, 1e-3, Schedule::cosine}, {RoundingKind::nearest, 0, 1e-3, Schedule::cosine}};
  for (const auto& c : cases) {
    RunConfig config;
    config.rounding = c.kind;
    EXPECT_EQ(config.rounding_lr(), c.rounding);
    EXPECT_EQ(config.scale_lr(), c.scale);
    EXPECT_EQ(config.rounding_schedule(), c.schedule);
    config.lr = 0.5, config.lr_scale = 0.25, config.schedule = Schedule::constant;
    EXPECT_EQ(config.rounding_lr(), 0.5);
    EXPECT_EQ(config.scale_lr(), 0.25);
    EXPECT_EQ(config.rounding_schedule(), Schedule::constant);
  }
}

// Offsets of few bits may move far; those of many would undo what GPTQ compensated.
TEST(Config, LearningRatesFromGptqFollowTheBits) {
  RunConfig config;
  config.rounding_start = RoundingStart::gptq;
  for (const auto& [bits, rate] : {std::pair{2, 3e-3}, {3, 1e-4}, {4, 1e-5}, {8, 1e-5}}) {
    config.wbits = bits, config.abits = 16;
    EXPECT_EQ(config.rounding_lr(), rate) << bits;
    EXPECT_EQ(config.scale_lr(), 3e-4) << bits;
    config.abits = 4;
    EXPECT_EQ(config.rounding_lr(), 1e-2) << bits;
    EXPECT_EQ(config.scale_lr(), 1e-3) << bits;
  }
}

TEST(Config, DependentDefaults) {
  EXPECT_EQ(with(R"("seqlen": 256)").eval.seqlen, 256);
  EXPECT_EQ(with(R"("seqlen": 256, "eval": {"seqlen": 512})").eval.seqlen, 512);
  EXPECT_EQ(with(R"("window": 1)").overlap, 0);
  EXPECT_EQ(parse(R"({"model": "m", "output_dir": "o", "method": "rtn"})").dataset.size(), 0u);
}

TEST(Config, PathsStartAtTheFileOrAtTheWorkingFolder) {
  const auto here = std::filesystem::current_path();
  const RunConfig config =
      with(R"("eval": {"data": ["../e.txt", "/abs//e.txt"]})", {"model=x/", "dataset=[\"a\", \"b\"]"});
  EXPECT_EQ(config.output_dir, "/base/o");
  EXPECT_EQ(config.eval.data, (std::vector<std::filesystem::path>{"/e.txt", "/abs/e.txt"}));
  EXPECT_EQ(config.model, here / "x");
  EXPECT_EQ(config.dataset, (std::vector{here / "a", here / "b"}));
}

TEST(Config, ReadsAFile) {
  TempFolder folder;
  write_file(folder / "run.json", "{" + kNeeded + "}");
  EXPECT_EQ(read_run_config(folder / "run.json", {}).model, std::filesystem::canonical(folder.path()) / "m");
  EXPECT_EQ(error_text([&] { read_run_config(folder / "none.json", {}); }).find((folder / "none.json").string()), 0u);
  EXPECT_NE(error_text([&] { read_run_config(folder.path(), {}); }), "no error");
}

TEST(Config, Aliases) {
  const RunConfig config = parse(
      R"({"model": "m", "save_dir": "o", "calib_dataset": ["d"], "bits": 3, "a_bits": 8, "w_groupsize": 64,
          "num_samples": 9, "seq_len": 33, "overrides": [{"match": "*", "bits": 2, "groupsize": 32}]})");
  EXPECT_EQ(config.output_dir, "/base/o");
  EXPECT_EQ(config.dataset.size(), 1u);
  EXPECT_EQ(config.wbits, 3);
  EXPECT_EQ(config.abits, 8);
  EXPECT_EQ(config.group_size, 64);
  EXPECT_EQ(config.nsamples, 9);
  EXPECT_EQ(config.seqlen, 33);
  EXPECT_EQ(config.overrides[0].wbits, 2);
  EXPECT_EQ(config.overrides[0].group_size, 32);
  EXPECT_EQ(error_with("\"wbits\": 4,\n  \"bits\": 4"),
            "run.json:2:2: expected each key once, found bits and wbits, which are the same; give one of them");
  EXPECT_EQ(with(R"("wbits": 4)", {"bits=3"}).wbits, 3);
}

TEST(Config, Schemes) {
  const RunConfig weights = with(R"("scheme": "W3A16_ASYM")"), both = with(R"("scheme": "W8A8")");
  EXPECT_EQ(weights.wbits, 3);
  EXPECT_EQ(weights.abits, 16);
  EXPECT_FALSE(weights.sym);
  EXPECT_EQ(both.wbits, 8);
  EXPECT_EQ(both.abits, 8);
  EXPECT_TRUE(both.sym);
  EXPECT_EQ(with(R"("scheme": "W4A16", "wbits": 4)").wbits, 4);
  EXPECT_EQ(with(R"("scheme": "W4A16")", {"wbits=2"}).wbits, 2);
  EXPECT_EQ(with(R"("wbits": 2)", {"scheme=W4A16"}).wbits, 4);
  EXPECT_EQ(error_with(R"("scheme": "W4A16", "sym": false)"),
            "run.json:2:21: sym: expected true as scheme \"W4A16\" says, or no scheme, found false");
  EXPECT_EQ(error_with(R"("scheme": "w4a16")"),
            "run.json:2:2: scheme: expected W<bits>A<bits> or W<bits>A<bits>_ASYM with 2, 3, 4, 5, 6, 8 or 16 bits for "
            "weights and 4, 6, 8 or 16 for activations, found \"w4a16\"");
}

TEST(Config, ErrorsSayKeyExpectationFindingAndPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("wbits": 7)", "wbits: expected 2, 3, 4, 5, 6, 8 or 16, found 7"},
      {R"("wbits": 4.0)", "wbits: expected 2, 3, 4, 5, 6, 8 or 16, found 4.0"},
      {R"("wbits": "4")", "wbits: expected 2, 3, 4, 5, 6, 8 or 16, found \"4\""},
      {R"("abits": 5)", "abits: expected 4, 6, 8 or 16, found 5"},
      {R"("kv_bits": 2)", "kv_bits: expected 4, 6, 8 or 16, found 2"},
      {R"("nsamples": 0)", "nsamples: expected an integer from 1 to 1000000, found 0"},
      {R"("nsamples": 18446744073709551615)",
       "nsamples: expected an integer from 1 to 1000000, found 18446744073709551615"},
      {R"("seed": -1)", "seed: expected an integer from 0 to 18446744073709551615, found -1"},
      {R"("group_size": 0)", "group_size: expected -1 (the whole row) or an integer from 1 to 1048576, found 0"},
      {R"("sym": 1)", "sym: expected true or false, found 1"},
      {R"("lr": -0.5)", "lr: expected a number from 0 to 10, found -0.5"},
      {R"("lr": null)", "lr: expected a number from 0 to 10, found null"},
      {R"("method": "CBQ")", "method: expected cbq, rtn or gptq, found \"CBQ\""},
      {R"("rounding_start": "mse")", "rounding_start: expected nearest or gptq, found \"mse\""},
      {R"("device": [])", "device: expected cpu or cuda, found an empty list"},
      {R"("schedule": "step")", "schedule: expected cosine, linear or constant, found \"step\""},
      {R"("eval": [])", "eval: expected an object, found an empty list"},
      {R"("overrides": {})", "overrides: expected a list of objects, found an empty object"},
      {R"("overlap": 2)", "overlap: expected less than window (2), found 2"},
      {R"("l2": 0, "kl": 0)", "l2 and kl: expected one above 0, found both 0"},
      {R"("beta_end": 30)", "beta_end: expected at most beta_start (20), found 30"},
      {R"("hard_fraction": 0.9)", "anneal_start + hard_fraction: expected at most 1, found 1.1"},
  };
  for (const auto& [members, text] : cases) EXPECT_EQ(error_with(members), std::string("run.json:2:2: ") + text);
}

TEST(Config, FormatsAndShards) {
  EXPECT_EQ(with("").exports, std::vector{Export::compressed_tensors});
  EXPECT_EQ(with(R"("export": "gptq")").exports, std::vector{Export::gptq});
  EXPECT_EQ(with(R"("export": ["dense", "gptq"])").exports, (std::vector{Export::dense, Export::gptq}));
  EXPECT_EQ(to_json(with(R"("export": ["dense", "gptq"])"))["export"], (ordered_json{"dense", "gptq"}));
  EXPECT_EQ(to_json(with(R"("export": ["gptq"])"))["export"], "gptq");
  EXPECT_EQ(error_with(R"("export": [])"),
            "run.json:2:2: export: expected compressed-tensors, gptq, dense or gguf, found an empty list");
  EXPECT_EQ(error_with(R"("export": ["gptq", "gptq"])"),
            "run.json:2:21: export[1]: expected each format once, found \"gptq\"");
  EXPECT_EQ(error_with(R"("export": "awq")"),
            "run.json:2:2: export: expected compressed-tensors, gptq, dense or gguf, found \"awq\"");
  EXPECT_EQ(with(R"("max_shard_size": 1000)").max_shard_size, 1000);
  EXPECT_EQ(with(R"("max_shard_size": "2GB")").max_shard_size, 2'000'000'000);
  EXPECT_EQ(with("", {"max_shard_size=500MB"}).max_shard_size, 500'000'000);
  for (const char* size :
       {"0", "-1", "1.5", "\"GB\"", "\"5\"", "\"5gb\"", "\"1e3MB\"", "\"2000GB\"", "\"99999999999999999999KB\""})
    EXPECT_NE(error_with(concat(R"("max_shard_size": )", size)).find("max_shard_size: expected a number of bytes"),
              std::string::npos)
        << size;
}

TEST(Config, PlacesInsideObjectsAndLists) {
  EXPECT_EQ(error_with("\"eval\": {\n  \"seqlen\": 1}"),
            "run.json:3:3: eval.seqlen: expected an integer from 2 to 1048576, found 1");
  EXPECT_EQ(error_with(R"("overrides": [{"match": "a,]}\"", "wbits": 4}, {"match": "*", "abits": 3}])"),
            "run.json:2:64: overrides[1].abits: expected 4, 6, 8 or 16, found 3");
  EXPECT_EQ(error_with(R"("eval": {"data": ["a", 3]})"), "run.json:2:25: eval.data[1]: expected a path, found 3");
  EXPECT_EQ(error_with(R"("eval": {"prompts": ["a", ""]})"),
            R"(run.json:2:28: eval.prompts[1]: expected a text, found "")");
  EXPECT_EQ(error_with(R"("overrides": [{"match": "*"}])"),
            "run.json:2:16: overrides[0]: expected an object with match and at least one of wbits, abits, group_size "
            "and sym, found an object");
  EXPECT_EQ(error_with(R"("overrides": [{"match": "*", "wbit": 4}])"),
            "run.json:2:31: expected an object with match and at least one of wbits, abits, group_size and sym, found "
            "\"wbit\"; did you mean wbits?");
}

TEST(Config, UnknownKeysNameTheNearest) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("wbit": 4)", R"(expected a known key, found "wbit"; did you mean wbits?)"},
      {R"("epoch": 4)", R"(expected a known key, found "epoch"; did you mean epochs?)"},
      {R"("windows": 4)", R"(expected a known key, found "windows"; did you mean window?)"},
      {R"("eval.seqlen": 4)", R"(expected a known key, found "eval.seqlen"; did you mean seqlen?)"},
      {R"("": 4)", R"(expected a known key, found ""; did you mean lr?)"},
      {R"("Model": 4)", R"(expected a known key, found "Model"; did you mean model?)"},
  };
  for (const auto& [members, text] : cases) EXPECT_EQ(error_with(members), std::string("run.json:2:2: ") + text);
  EXPECT_EQ(error_with(R"("eval": {"window": 4})"),
            R"(run.json:2:11: expected a known key, found "eval.window"; did you mean eval.windows?)");
}

TEST(Config, BrokenFiles) {
  EXPECT_EQ(error_of("{\n \"model\" 3}").find("run.json:2:10: "), 0u);
  EXPECT_EQ(error_of("").find("run.json:1:1: "), 0u);
  EXPECT_EQ(error_of(" []"), "run.json:1:2: expected an object, found an empty list");
  EXPECT_EQ(error_of(R"({"model": "m", "model": "m"})").find("run.json:1:"), 0u);
  EXPECT_EQ(error_of("{}"), "run.json: expected the key model, found none; add \"model\": \"FOLDER\"");
  EXPECT_EQ(error_of(R"({"model": "m"})"),
            "run.json: expected the key output_dir, found none; add \"output_dir\": \"FOLDER\"");
  EXPECT_EQ(error_of(R"({"model": "m", "output_dir": "o"})"),
            "run.json: dataset: expected at least one file, found none; only method rtn without cfp_activations needs "
            "no text");
  EXPECT_EQ(error_of(R"({"model": "m", "output_dir": "./m/", "dataset": "d"})"),
            "run.json:1:16: output_dir: expected another folder than that of the model, found the same");
  EXPECT_EQ(error_of(R"({"model": "a\u0000b"})"), "run.json:1:2: model: expected a path, found \"a\\u0000b\"");
  EXPECT_EQ(error_of(R"({"model": ""})"), "run.json:1:2: model: expected a path, found \"\"");
}

TEST(Config, Settings) {
  EXPECT_EQ(with("", {"eval.windows=8"}).eval.windows, 8);
  EXPECT_EQ(with("", {"eval={\"windows\": 8, \"data\": \"/e\"}"}).eval.data.size(), 1u);
  EXPECT_EQ(with(R"("wbits": 2)", {"wbits=3", "wbits=8"}).wbits, 8);
  EXPECT_EQ(with("", {"method=rtn"}).method, Method::rtn);
  EXPECT_EQ(with("", {"schedule=null"}).schedule, std::nullopt);
  EXPECT_EQ(error_with("", {"wbits=x"}), R"(--set "wbits=x": wbits: expected 2, 3, 4, 5, 6, 8 or 16, found "x")");
  EXPECT_EQ(error_with("", {"eval.windoes=x"}),
            R"(--set "eval.windoes=x": expected a known key, found "eval.windoes"; did you mean eval.windows?)");
  EXPECT_EQ(error_with("", {"wbits"}), R"(--set "wbits": expected key=value)");
  EXPECT_EQ(error_with("", {"=3"}), R"(--set "=3": expected key=value)");
  EXPECT_EQ(error_with("", {"model="}), R"(--set "model=": model: expected a path, found "")");
  EXPECT_EQ(error_with("", {"model=\xff"}), "--set \"model=\\ufffd\": expected UTF-8");
  EXPECT_EQ(error_with("", {"lr.x=3"}), R"(--set "lr.x=3": lr: expected a number from 0 to 10, found an object)");
}

// A value that the key allows, other than its default more often than not.
ordered_json drawn(const std::string& name, const ordered_json& written, test::Rng& rng) {
  const std::vector<int> weight_widths{2, 3, 4, 5, 6, 8, 16}, activation_widths{4, 6, 8, 16};
  const std::map<std::string, std::vector<std::string>> names = {
      {"device", {"cpu", "cuda"}},
      {"method", {"cbq", "rtn", "gptq"}},
      {"start", {"mse", "min-max"}},
      {"rounding", {"nearest", "lora", "lora_ste", "dense", "sign", "weights"}},
      {"rounding_start", {"nearest", "gptq"}},
      {"cfp", {"off", "paper", "msmodelslim"}},
      {"window_schedule", {"fixed", "grow"}},
      {"precision", {"auto", "float32", "bfloat16"}},
      {"offload", {"auto", "device", "host", "disk"}},
      {"export", {"compressed-tensors", "gptq", "dense", "gguf"}}};
  if (name == "wbits") return weight_widths[rng.below(7)];
  if (name == "abits" || name == "kv_bits") return activation_widths[rng.below(4)];
  if (name == "seed") return rng.next();
  if (name == "overlap") return 0;
  if (name == "window") return 1 + rng.below(8);
  if (name == "schedule") return rng.below(2) ? ordered_json("linear") : ordered_json(nullptr);
  if (name == "beta_end") return double(2 + rng.below(19));
  if (name == "beta_start") return 20 + double(rng.below(1000)) / 7;
  if (name == "anneal_start" || name == "hard_fraction") return double(rng.below(1000)) / 2003;
  if (const auto choices = names.find(name); choices != names.end())
    return choices->second[rng.below(choices->second.size())];
  if (name == "overrides")
    return {{{"match", "*"}, {"wbits", 3}}, {{"match", "a\"?"}, {"group_size", -1}, {"sym", true}}};
  if (written.is_array()) return {"/a/" + std::to_string(rng.below(100)), "/b \xc3\xa4"};
  if (written.is_string()) return "/" + name + std::to_string(rng.below(100));
  if (written.is_boolean()) return rng.below(2) == 1;
  if (written.is_number_float()) return double(1 + rng.below(999)) / 1001;
  return 2 + rng.below(1000);
}

TEST(Config, WhatIsWrittenReadsBackEqual) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    test::Rng rng(seed);
    ordered_json json = to_json(RunConfig());
    for (const ConfigKey& key : config_keys()) {
      const std::size_t dot = key.name.find('.');
      ordered_json& value = dot == std::string::npos ? json[key.name] : json["eval"][key.name.substr(dot + 1)];
      value = drawn(key.name, value, rng);
    }
    const RunConfig config = parse(json.dump());
    EXPECT_EQ(to_json(config), json) << "seed " << seed;
    EXPECT_EQ(parse(to_json(config).dump()), config) << "seed " << seed;
  }
}

}  // namespace

}  // namespace cbq
