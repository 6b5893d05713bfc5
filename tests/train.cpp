// Training from scratch: the vocabularies, the model in memory and on disk, and the whole command.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "cpu/open.h"
#include "models/dataset.h"
#include "models/vocabulary.h"
#include "tests/error_text.h"
#include "tests/temp_folder.h"
#include "tools/story.h"
#include "tools/train_config.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> stories(int count, std::uint64_t seed) {
  Rng rng(seed);
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) texts.push_back(story_grammar().expand("story", rng));
  return texts;
}

void write_stories(const fs::path& file, int count, std::uint64_t seed) {
  std::string lines;
  for (const std::string& text : stories(count, seed)) lines += nlohmann::json{{"text", text}}.dump() + "\n";
  write_file(file, lines);
}

TrainConfig tiny_train_config(Family family) {
  TrainConfig config;
  config.family = family;
  config.vocab = 320, config.hidden = 32, config.layers = 2, config.heads = 4, config.ffn = 48;
  config.kv_heads = family == Family::llama ? 2 : 4;
  config.seqlen = 32, config.steps = 40, config.batch_size = 4, config.warmup = 5, config.lr = 1e-2;
  config.seed = 3;
  return config;
}

const char* name_of(Family family) {
  return family == Family::opt ? "opt" : "llama";
}

class EachFamily : public testing::TestWithParam<Family> {};
INSTANTIATE_TEST_SUITE_P(Train, EachFamily, testing::Values(Family::llama, Family::opt),
                         [](const auto& test) { return name_of(test.param); });

// ---- vocabularies

TEST_P(EachFamily, VocabularySpellsEveryText) {
  const TempFolder folder;
  write_vocabulary(folder.path(), GetParam(), stories(200, 1), 400, 64);
  const auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer->vocab_size(), 400);
  EXPECT_EQ(tokenizer->bos(), first_token(GetParam()));
  for (const std::string text : {"Once upon a time", "two  spaces, 1234", "\xc3\xa4\xe6\x97\xa5\xf0\x9f\x98\x80!"})
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  for (const std::string& text : stories(50, 2)) {
    const auto ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    EXPECT_LT(double(ids.size()), 0.6 * double(text.size())) << text;  // it has learned words, not letters
  }
}

TEST(ByteLevelBpe, MergesTheMostFrequentPairFirst) {
  const std::string space = "\xc4\xa0";  // how the space is spelled
  // "aab" once and " aab" twice: a+a and a+b are seen 3 times each, the smaller pair wins.
  const ByteLevelBpe bpe = train_byte_level_bpe({"aab aab aab"}, 263);
  const std::vector<std::pair<std::string, std::string>> expected = {{"a", "a"}, {"aa", "b"}, {space, "aab"}};
  EXPECT_EQ(bpe.merges, expected);
  EXPECT_EQ(bpe.tokens.size(), 263u);
  EXPECT_EQ(bpe.tokens.back(), space + "aab");
  EXPECT_EQ(std::set<std::string>(bpe.tokens.begin(), bpe.tokens.end()).size(), bpe.tokens.size());
}

TEST(ByteLevelBpe, NeedsEnoughText) {
  EXPECT_EQ(error_text([] { train_byte_level_bpe({"aab aab"}, 264); }),
            "vocab: expected texts that give 264 entries, found 263; use more text or a smaller vocab");
  EXPECT_EQ(error_text([] { train_byte_level_bpe({"aab"}, 259); }),
            "vocab: expected at least 260, the bytes and the special tokens, found 259");
}

TEST(Sentencepiece, NeedsEnoughText) {
  EXPECT_THROW(train_sentencepiece({"aab aab"}, 400), Error);
}

// ---- the model in memory

TEST_P(EachFamily, EveryParameterIsTrained) {
  const auto ctx = cpu::open(1);
  for (const bool tied : {false, true}) {
    TrainConfig config = tiny_train_config(GetParam());
    config.tie_word_embeddings = tied;
    TrainableModel model(*ctx, model_config(config), 1);
    Tape tape(*ctx);
    const Var loss = model.loss(tape, {{5, 6, 7, 8, 9}, {9, 3, 2, 1, 5}});
    const double value = to_host<double>(*ctx, loss.value)[0];
    EXPECT_TRUE(std::abs(value - std::log(320.0)) <= 1) << value;  // nothing is known yet
    tape.backward(loss);
    EXPECT_EQ(tape.size(), 0u);
    std::int64_t count = 0;
    for (const Parameter& parameter : model.parameters()) {
      count += parameter.value.count();
      ASSERT_TRUE(parameter.slot->grad) << parameter.name;
      double norm = 0;
      for (const double g : to_host<double>(*ctx, parameter.slot->grad)) norm += g * g;
      // A bias of all keys shifts all scores of a query alike, which softmax does not see.
      EXPECT_TRUE(norm > 0 || parameter.name.ends_with("k_proj.bias")) << parameter.name;
    }
    EXPECT_EQ(count, parameter_count(model.config()));
  }
}

TEST_P(EachFamily, FolderIsTheModelInMemory) {
  const auto ctx = cpu::open(1);
  for (const bool tied : {false, true}) {
    const TempFolder folder;
    TrainConfig config = tiny_train_config(GetParam());
    config.tie_word_embeddings = tied;
    config.dtype = DType::f32;
    TrainableModel model(*ctx, model_config(config), 1);
    model.write_tensors(folder / "model.safetensors");
    write_file(folder / "config.json", checkpoint_config(model.config()).dump());
    Rng rng(2);
    Windows windows(5, std::vector<std::int32_t>(32));
    for (auto& window : windows)
      for (auto& id : window) id = std::int32_t(rng.below(320));
    Tape tape(*ctx);
    const double in_memory = std::exp(to_host<double>(*ctx, model.loss(tape, windows).value)[0]);
    const double reread = evaluate(*ctx, Model(*ctx, folder.path()), windows).perplexity;
    EXPECT_TRUE(std::abs(reread / in_memory - 1) <= 1e-5) << in_memory << " in memory, " << reread << " re-read";
  }
}

TEST(TrainConfig, SizesMustFit) {
  const auto change = [](const auto& edit) {
    TrainConfig config = tiny_train_config(Family::llama);
    edit(config);
    return error_text([&] { model_config(config); });
  };
  EXPECT_EQ(change([](TrainConfig& c) { c.hidden = 33; }), "hidden: expected a multiple of heads (4), found 33");
  EXPECT_EQ(change([](TrainConfig& c) { c.hidden = 20; }), "hidden: expected an even number a head, found 5");
  EXPECT_EQ(change([](TrainConfig& c) { c.kv_heads = 3; }), "kv_heads: expected a divisor of heads (4), found 3");
  EXPECT_EQ(change([](TrainConfig& c) { c.family = Family::opt; }),
            "kv_heads: expected as many as heads in family opt (4), found 2");
  EXPECT_EQ(change([](TrainConfig& c) { c.vocab = 257; }),
            "vocab: expected at least 258, the bytes and the special tokens, found 257");
  EXPECT_EQ(change([](TrainConfig&) {}), "no error");
}

// ---- the whole command

TEST_P(EachFamily, LearnsAndWritesTheSameBytesTwice) {
  const TempFolder folder;
  const auto ctx = cpu::open(1);
  TrainConfig config = tiny_train_config(GetParam());
  write_stories(folder / "train.jsonl", 300, 1);
  write_stories(folder / "validation.jsonl", 10, 2);
  config.dataset = {folder / "train.jsonl"}, config.validation = {folder / "validation.jsonl"};
  config.output_dir = folder / "model";
  const TrainingReport report = train(*ctx, config, stderr);
  ASSERT_EQ(report.losses.size(), 40u);
  EXPECT_LT(report.losses.back(), report.losses.front() - 1);
  EXPECT_LT(*report.perplexity, std::exp(report.losses.front() - 1));

  // What `cbq eval` measures on the folder.
  const Model model(*ctx, config.output_dir);
  EXPECT_EQ(model.config().dtype, DType::f16);
  EXPECT_EQ(model.config().kv_heads, config.kv_heads);
  const auto tokenizer = Tokenizer::open(config.output_dir);
  const auto stream = token_stream(*tokenizer, read_texts(config.validation[0]), 320);
  EXPECT_EQ(evaluate(*ctx, model, eval_windows(stream, 32, 0, "")).perplexity, *report.perplexity);

  config.output_dir = folder / "again";
  train(*ctx, config, stderr);
  train(*ctx, config, stderr);  // over an earlier result
  std::ptrdiff_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder / "model")) {
    const std::string name = entry.path().filename().string();
    EXPECT_TRUE(read_file(entry.path()) == read_file(folder / "again" / name)) << name;
    ++files;
  }
  EXPECT_EQ(files, GetParam() == Family::opt ? 6 : 5);
  EXPECT_EQ(folder.entries(), 4);  // two texts, two models: nothing is left beside them
}

TEST(Train, RefusesAFolderWithOtherFiles) {
  const TempFolder folder;
  const auto ctx = cpu::open(1);
  TrainConfig config = tiny_train_config(Family::opt);
  config.output_dir = folder / "model";
  fs::create_directories(config.output_dir);
  write_file(config.output_dir / "tokenizer.model", "of another model");
  EXPECT_EQ(error_text([&] { train(*ctx, config, stderr); }),
            config.output_dir.string() +
                ": expected an empty folder or an earlier result of this command, found "
                "\"tokenizer.model\"; choose another output_dir");
}

TEST(Train, WritesNothingWhenInterrupted) {
  const TempFolder folder;
  const auto ctx = cpu::open(1);
  TrainConfig config = tiny_train_config(Family::llama);
  write_stories(folder / "train.jsonl", 100, 1);
  config.dataset = {folder / "train.jsonl"};
  config.output_dir = folder / "model";
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(error_text([&] { train(*ctx, config, stderr, stop.get_token()); }, ErrorKind::failure),
            "train: interrupted after 0 of 40 steps; nothing was written, the same command starts again");
  EXPECT_TRUE(fs::is_empty(config.output_dir));
  EXPECT_EQ(folder.entries(), 2);
}

TEST(Train, NamesALossThatIsNotFinite) {
  const TempFolder folder;
  const auto ctx = cpu::open(1);
  TrainConfig config = tiny_train_config(Family::opt);
  write_stories(folder / "train.jsonl", 100, 1);
  config.dataset = {folder / "train.jsonl"};
  config.output_dir = folder / "model";
  config.lr = 1e30, config.warmup = 0, config.weight_decay = 0;
  const std::string text = error_text([&] { train(*ctx, config, stderr); }, ErrorKind::failure);
  EXPECT_TRUE(text.find("expected a finite loss") != std::string::npos) << text;
}

// ---- the configuration

std::string config_error(const std::string& text, const std::vector<std::string>& settings = {}) {
  return error_text([&] { parse_train_config(text, "train.json", "/data", settings); });
}

TEST(TrainConfigFile, IsRead) {
  const TrainConfig config = parse_train_config(
      R"({"family": "opt", "output_dir": "model", "dataset": ["a.txt", "/b.txt"], "validation": "c.txt", "lr": 1e-3,
          "steps": 7, "dtype": "bf16", "tie_word_embeddings": true})",
      "train.json", "/data", {"steps=9", "dtype=f32"});
  EXPECT_EQ(config.family, Family::opt);
  EXPECT_EQ(config.output_dir, "/data/model");
  EXPECT_EQ(config.dataset, (std::vector<fs::path>{"/data/a.txt", "/b.txt"}));
  EXPECT_EQ(config.validation, (std::vector<fs::path>{"/data/c.txt"}));
  EXPECT_EQ(config.lr, 1e-3);
  EXPECT_EQ(config.steps, 9);
  EXPECT_EQ(config.dtype, DType::f32);
  EXPECT_TRUE(config.tie_word_embeddings);
}

TEST(TrainConfigFile, ErrorsNamePlaceAndWayOut) {
  EXPECT_EQ(config_error("{\"layer\": 2}"),
            "train.json:1:2: expected a known key, found \"layer\"; did you mean layers?");
  EXPECT_EQ(config_error("{\n \"steps\": 0}"),
            "train.json:2:2: steps: expected an integer from 1 to 1000000000, found 0");
  EXPECT_EQ(config_error("{\"family\": \"gpt\"}"), "train.json:1:2: family: expected llama or opt, found \"gpt\"");
  EXPECT_EQ(config_error("[]"), "train.json:1:1: expected an object, found an empty list");
  EXPECT_EQ(config_error("{}"), "train.json: expected the key family, found none; add it");
  EXPECT_EQ(config_error(R"({"family": "opt", "output_dir": "m", "dataset": []})"),
            "train.json: dataset: expected at least one file, found none");
  EXPECT_EQ(config_error("{}", {"stepz=1"}),
            "--set \"stepz=1\": expected a known key, found \"stepz\"; did you mean steps?");
}

}  // namespace
}  // namespace cbq
