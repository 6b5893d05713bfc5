// Damaged configurations: each is accepted, and then reads back equal from what it writes, or is an Error{bad_input}.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "quant/config_keys.h"
#include "tests/error_text.h"
#include "tests/mutate.h"

namespace cbq {

namespace {

constexpr std::uint64_t kCases = 20'000;

std::string start_text() {
  return R"({"model": "m", "output_dir": "o", "dataset": ["a.jsonl", "b.txt.gz"], "nsamples": 128, "seqlen": 256,
 "seed": 3, "device": "cpu", "threads": 2, "method": "cbq", "bits": 4, "abits": 16, "group_size": -1, "sym": false,
 "overrides": [{"match": "model.layers.0.*", "wbits": 8}, {"match": "*down_proj", "group_size": 64, "sym": true}],
 "rounding": "lora_ste", "rank": 5, "window": 2, "overlap": 1, "lr": 0.01, "schedule": null, "l2": 1, "kl": 1.5e0,
 "beta_start": 20, "cfp": "paper", "export": "dense",
 "eval": {"data": ["eval.jsonl"], "seqlen": 256, "windows": 64, "prompts": ["Once"]}})";
}

void check(const std::string& text, const std::vector<std::string>& settings) {
  try {
    const RunConfig config = parse_run_config(text, "run.json", "/base", settings);
    EXPECT_EQ(parse_run_config(to_json(config).dump(), "run.json", "/", {}), config) << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.what() << '\n' << text;
    EXPECT_EQ(std::string_view(error.what()).find('\n'), std::string_view::npos) << error.what();
  }
}

TEST(FuzzConfig, DamagedFiles) {
  EXPECT_EQ(error_text([] { parse_run_config(start_text(), "run.json", "/base", {}); }), "no error");
  for (std::uint64_t seed = 0; seed < kCases; ++seed) {
    SCOPED_TRACE(seed);
    test::Rng rng(seed);
    check(test::mutate(start_text(), rng), {});
  }
}

TEST(FuzzConfig, DamagedSettings) {
  const std::string settings[] = {"wbits=3",
                                  "eval.windows=8",
                                  R"(overrides=[{"match": "*", "sym": true}])",
                                  "scheme=W4A16",
                                  R"(eval={"data": "e.txt"})",
                                  "model=/m"};
  for (std::uint64_t seed = 0; seed < kCases; ++seed) {
    SCOPED_TRACE(seed);
    test::Rng rng(seed);
    check(start_text(), {test::mutate(settings[seed % std::size(settings)], rng)});
  }
}

}  // namespace

}  // namespace cbq
