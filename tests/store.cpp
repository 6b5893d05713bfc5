// The run store: what is saved comes back bit for bit, and what is not ours is refused.
#include "tests/store_fixture.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

TEST_F(Store, BlocksComeBackBitForBit) {
  for (const Family family : {Family::llama, Family::opt})
    for (const DType stored : {DType::f16, DType::bf16, DType::f32})
      for (const DType compute : {DType::f32, DType::f64}) {
        SCOPED_TRACE(concat(int(family), " ", stored, " ", compute));
        const TempFolder folder;
        const ModelConfig config = write_tiny_model(*ctx_, folder / "model", {family, stored});
        Rng rng(1);
        HardBlock block = random_hard_block(*ctx_, rng, config, mixed_spec(config), compute);
        block.kv_cache = {8, Symmetry::asymmetric};
        RunStore store(folder / "out", kRun);
        store.save_block(*ctx_, 1, block, stored);
        const std::string first = read_file(folder / "out/.cbq/blocks/block-00001.safetensors");
        EXPECT_TRUE(same_block(*ctx_, block, store.load_block(*ctx_, config, 1, compute)));
        store.save_block(*ctx_, 1, block, stored);
        EXPECT_TRUE(first == read_file(folder / "out/.cbq/blocks/block-00001.safetensors"));
      }
}

TEST_F(Store, ValuesThatTheCheckpointsTypeCannotHoldAreKeptToo) {
  const ModelConfig config = write_tiny_model(*ctx_, temp_ / "model", {});
  Rng rng(2);
  HardBlock block = random_hard_block(*ctx_, rng, config, mixed_spec(config), DType::f32);
  block.weights.mlp_norm.weight = full(*ctx_, {config.hidden}, DType::f32, 1.0f / 3);
  block.weights[LinearRole::down].weight = full(*ctx_, weight_shape(config, LinearRole::down), DType::f32, 1e30);
  RunStore store(output_, kRun);
  store.save_block(*ctx_, 0, block, DType::f16);
  EXPECT_TRUE(same_block(*ctx_, block, store.load_block(*ctx_, config, 0, DType::f32)));
}

TEST_F(Store, CodesAreStoredPacked) {
  const ModelConfig config = write_tiny_model(*ctx_, temp_ / "model", {});
  Rng rng(2);
  const BlockSpec spec = uniform_spec(config, {{2, -1, Symmetry::symmetric}, {}});
  RunStore store(output_, kRun);
  store.save_block(*ctx_, 0, random_hard_block(*ctx_, rng, config, spec, DType::f32), DType::f16);
  const SafetensorsFile file(output_ / ".cbq/blocks/block-00000.safetensors");
  EXPECT_EQ(file.info("down.codes").bytes, 36 * 4 * 3);  // (36, 44): 88 bits a row in 3 words
  EXPECT_EQ(file.info("down.scale").dtype, DType::f16);
}

TEST_F(Store, WindowsResumeFromTheLastCompleteOne) {
  {
    RunStore store(output_, kRun);
    EXPECT_EQ(store.windows_done(), 0);
    EXPECT_TRUE(store.load_state(*ctx_).empty());
    store.save_window(*ctx_, 1, state(1), {{"loss", 0.5}});
    store.save_window(*ctx_, 2, state(2), {{"loss", 0.25}});
    EXPECT_EQ(error_text([&] { store.save_window(*ctx_, 2, {}, {}); }, ErrorKind::failure),
              "store: window 2 after window 2");
  }
  RunStore store(output_, kRun);
  EXPECT_EQ(store.windows_done(), 2);
  EXPECT_EQ(store.notes(), (nlohmann::json{{"loss", 0.25}}));
  const auto found = store.load_state(*ctx_), expected = state(2);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(same_bits(*ctx_, tensor, found.at(name))) << name;
  EXPECT_FALSE(fs::exists(output_ / ".cbq/state-00001.safetensors"));
}

TEST_F(Store, AStateWithoutTensorsIsAState) {
  { RunStore(output_, kRun).save_window(*ctx_, 1, {}, nullptr); }
  const RunStore store(output_, kRun);
  EXPECT_EQ(store.windows_done(), 1);
  EXPECT_TRUE(store.load_state(*ctx_).empty());
}

TEST_F(Store, FinishKeepsNotesAndDropsTheRest) {
  const ModelConfig config = write_tiny_model(*ctx_, temp_ / "model", {});
  Rng rng(3);
  {
    RunStore store(output_, kRun);
    store.save_block(*ctx_, 0, random_hard_block(*ctx_, rng, config, mixed_spec(config), DType::f32), DType::f16);
    store.save_window(*ctx_, 1, state(1), {{"a", 1}});
    store.finish();
    store.finish();
  }
  const RunStore store(output_, kRun);
  EXPECT_TRUE(store.finished());
  EXPECT_EQ(store.notes(), (nlohmann::json{{"a", 1}}));
  EXPECT_EQ(std::distance(fs::recursive_directory_iterator(output_ / ".cbq"), fs::recursive_directory_iterator()), 2)
      << "lock and progress.json";
}

TEST_F(Store, AnotherRunIsRefusedWithWhatChanged) {
  { RunStore(output_, kRun).save_window(*ctx_, 1, {}, nullptr); }
  Fingerprint other = kRun;
  other.config["lr"] = 0.2;
  other.config["rank"] = 5;
  other.config.erase("wbits");
  EXPECT_EQ(open_error(other),
            output_.string() +
                ": holds a run with another config (lr was 0.1 and is 0.2, rank was not set and is 5, "
                "wbits was 4 and is not set); choose another output_dir or delete this one");
  other = kRun;
  other.model = "m2";
  EXPECT_TRUE(contains(open_error(other), "holds a run with another model; choose"));
  other.dataset = "d2";
  EXPECT_TRUE(contains(open_error(other), "holds a run with another model and another dataset; choose"));
  EXPECT_EQ(open_error(kRun), "no error");
}

TEST_F(Store, TheExportMayChangeUntilTheRunIsFinished) {
  Fingerprint dense = kRun;
  dense.export_format = "dense";
  { RunStore(output_, kRun).save_window(*ctx_, 1, {}, nullptr); }
  { RunStore(output_, dense).finish(); }
  EXPECT_EQ(open_error(dense), "no error");
  EXPECT_TRUE(contains(open_error(kRun),
                       "holds a run with another export (dense, and finished: `cbq export` makes others of "
                       "it); choose"))
      << open_error(kRun);
}

TEST_F(Store, FoldersOfOthersAreRefused) {
  fs::create_directories(output_);
  write_file(output_ / "thesis.tex", "x");
  EXPECT_EQ(open_error(kRun),
            output_.string() +
                ": expected an empty folder or one of an earlier run, found thesis.tex, which no run of "
                "cbq wrote; choose another output_dir or empty this one");
  EXPECT_FALSE(fs::exists(output_ / ".cbq")) << "a refusal leaves the folder as it was";
  fs::remove(output_ / "thesis.tex");
  fs::create_directories(output_ / ".cbq");
  write_file(output_ / ".cbq/diary.txt", "x");
  EXPECT_TRUE(contains(open_error(kRun), "found diary.txt, which no run"));
  fs::remove(output_ / ".cbq/diary.txt");
  EXPECT_EQ(open_error(kRun), "no error") << "a run killed right after it began";
  write_file(output_ / "report.json", "{}");
  EXPECT_EQ(open_error(kRun), "no error") << "what is beside the store of a run";
}

TEST_F(Store, PlacesThatCannotHoldARunAreRefused) {
  write_file(temp_ / "file", "x");
  EXPECT_TRUE(contains(error_text([&] { RunStore(temp_ / "file", kRun); }), "expected a folder, found a file"));
  EXPECT_TRUE(contains(error_text([&] { RunStore(temp_ / "file" / "out", kRun); }), "choose another output_dir"));
  EXPECT_TRUE(contains(error_text([&] { RunStore("/proc/cbq-test", kRun); }), "cannot create the folder"));
}

TEST_F(Store, OneProcessAtATime) {
  const RunStore store(output_, kRun);
  EXPECT_EQ(
      open_error(kRun),
      output_.string() + ": another cbq process is working in this folder; wait for it or choose another output_dir");
}

TEST_F(Store, TemporaryFilesOfKilledRunsAreRemoved) {
  { RunStore(output_, kRun); }
  const std::vector<fs::path> left = {output_ / "model.safetensors.tmp-12-0", output_ / ".cbq/progress.json.tmp-12-0",
                                      output_ / ".cbq/blocks/block-00000.safetensors.tmp-7-1",
                                      output_ / ".cbq/state-00009.safetensors"};
  for (const fs::path& path : left) write_file(path, "half");
  write_file(output_ / "mine.tmp-x", "kept");
  RunStore(output_, kRun);
  for (const fs::path& path : left) EXPECT_FALSE(fs::exists(path)) << path;
  EXPECT_TRUE(fs::exists(output_ / "mine.tmp-x"));
}

}  // namespace
}  // namespace cbq
