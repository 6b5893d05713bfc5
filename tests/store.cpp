// The run store: what is saved comes back bit for bit, after a kill too; what is not ours or damaged is refused.
#include "quant/store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "cpu/open.h"
#include "tests/error_text.h"
#include "tests/tiny_model.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

const Fingerprint kRun{{{"wbits", 4}, {"lr", 0.1}}, "m1", "d1", "compressed-tensors"};

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A spec that differs from layer to layer: every width, both symmetries, one layer of 16 bits.
BlockSpec mixed_spec(const ModelConfig& config) {
  constexpr std::array kBits = {2, 3, 4, 5, 6, 8, 16};
  BlockSpec spec = uniform_spec(config, {{4, -1, Symmetry::symmetric}, {8, Symmetry::asymmetric}});
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    spec[i].weight = {kBits[i], i % 2 ? 4 : -1, i % 3 ? Symmetry::asymmetric : Symmetry::symmetric};
  }
  return spec;
}

class Store : public ::testing::Test {
 protected:
  std::unique_ptr<Context> ctx_ = cpu::open(1);
  TempFolder temp_;
  fs::path output_ = temp_ / "out";

  std::map<std::string, Tensor> state(float value) {
    const std::vector<float> values(1000, value);
    return {{"3.q.a1", from_host<float>(*ctx_, {10, 100}, DType::f32, values)},
            {"3.rng", from_host<std::int32_t>(*ctx_, {2}, DType::i32, std::vector<std::int32_t>{1, -7})}};
  }
  std::string open_error(const Fingerprint& fingerprint) {
    return error_text([&] { RunStore(output_, fingerprint); });
  }
};

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
  EXPECT_TRUE(contains(open_error(kRun), "holds a run with another export (dense, and finished); choose"))
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

TEST_F(Store, DamagedFilesSayWhatToDelete) {
  const ModelConfig config = write_tiny_model(*ctx_, temp_ / "model", {});
  Rng rng(4);
  const fs::path block_file = output_ / ".cbq/blocks/block-00000.safetensors",
                 state_file = output_ / ".cbq/state-00001.safetensors", progress_file = output_ / ".cbq/progress.json";
  {
    RunStore store(output_, kRun);
    store.save_block(*ctx_, 0, random_hard_block(*ctx_, rng, config, mixed_spec(config), DType::f32), DType::f16);
    store.save_window(*ctx_, 1, state(1), nullptr);
    const std::string advice = "; the state of the run is damaged: delete " + output_.string() + " to start it anew";
    const std::string block = read_file(block_file), saved_state = read_file(state_file);
    const auto load = [&] { store.load_block(*ctx_, config, 0, DType::f32); };
    for (const std::size_t size : {std::size_t(0), std::size_t(5), block.size() / 2, block.size() - 1}) {
      write_file(block_file, block.substr(0, size));
      EXPECT_TRUE(contains(error_text(load), advice)) << size << " " << error_text(load);
    }
    for (const auto& [from, to] : {std::pair<std::string, std::string>{"\\\"bits\\\":3", "\\\"bits\\\":7"},
                                   {"\\\"bits\\\":3", "\\\"bits\\\":4"},
                                   {"group_size\\\":4", "group_size\\\":0"},
                                   {"linears", "linearx"},
                                   {"\\\"f16\\\"", "\\\"f99\\\""},
                                   {"q.scale", "q.scalf"}}) {
      std::string changed = block;
      ASSERT_NE(changed.find(from), std::string::npos) << from;
      write_file(block_file, changed.replace(changed.find(from), from.size(), to));
      EXPECT_TRUE(contains(error_text(load), advice)) << from << " " << error_text(load);
    }
    fs::remove(block_file);
    EXPECT_TRUE(contains(error_text(load), advice)) << error_text(load);
    write_file(state_file, saved_state.substr(0, 100));
    EXPECT_TRUE(contains(error_text([&] { store.load_state(*ctx_); }), advice));
  }
  const nlohmann::json progress = nlohmann::json::parse(read_file(progress_file));
  std::vector<std::string> broken = {"", "{", "[]", "{}"};
  for (const auto& [key, value] : progress.items()) {
    nlohmann::json changed = progress;
    changed.erase(key);
    broken.push_back(changed.dump());
    if (key == "notes") continue;  // of any type
    changed[key] = {1, 2};
    broken.push_back(changed.dump());
  }
  for (const std::string& text : broken) {
    write_file(progress_file, text);
    EXPECT_TRUE(contains(open_error(kRun), "the state of the run is damaged: delete")) << text << open_error(kRun);
  }
}

TEST_F(Store, AFullDiskIsOneErrorAndLeavesTheLastState) {
  RunStore store(output_, kRun);
  store.save_window(*ctx_, 1, state(1), nullptr);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string text = error_text([&] { store.save_window(*ctx_, 2, state(2), nullptr); }, ErrorKind::failure);
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, old_handler);
  EXPECT_TRUE(contains(text, "state-00002.safetensors: cannot ") && contains(text, "ulimit")) << text;
  EXPECT_EQ(store.windows_done(), 1);
  EXPECT_TRUE(same_bits(*ctx_, store.load_state(*ctx_).at("3.q.a1"), state(1).at("3.q.a1")));
  store.save_window(*ctx_, 2, state(2), nullptr);
  EXPECT_EQ(store.windows_done(), 2);
}

// A child saves blocks and windows without end and is killed at a random moment, again and again. The kernels run in
// one thread here, so that the child of a fork can use them.
TEST_F(Store, AKillAtAnyMomentLeavesTheLastCompleteState) {
  const ModelConfig config = write_tiny_model(*ctx_, temp_ / "model", {});
  const auto delay_seed = static_cast<std::uint64_t>(getpid());
  Rng rng(5), delays(delay_seed);
  SCOPED_TRACE(concat("delay seed ", delay_seed));
  const HardBlock block = random_hard_block(*ctx_, rng, config, mixed_spec(config), DType::f32);
  std::int64_t last = 0, killed_half_way = 0;
  for (int round = 0; round < 40; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        RunStore store(output_, kRun);
        for (std::int64_t n = store.windows_done() + 1;; ++n) {
          store.save_block(*ctx_, n % 3, block, DType::f16);
          store.save_window(*ctx_, n, state(float(n)), {{"window", n}});
        }
      } catch (const std::exception& error) {
        std::fprintf(stderr, "child: %s\n", error.what());
      }
      _exit(1);
    }
    std::this_thread::sleep_for(std::chrono::microseconds(2000 + delays.below(30000)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself";
    if (fs::exists(output_ / ".cbq"))
      for (const auto& entry : fs::recursive_directory_iterator(output_ / ".cbq"))
        killed_half_way += contains(entry.path().filename().string(), ".tmp-");
    const RunStore store(output_, kRun);
    const std::int64_t done = store.windows_done();
    ASSERT_GE(done, last);
    if (done > 0) {
      EXPECT_EQ(store.notes().at("window"), done);
      EXPECT_TRUE(same_bits(*ctx_, store.load_state(*ctx_).at("3.q.a1"), state(float(done)).at("3.q.a1")));
      EXPECT_TRUE(same_block(*ctx_, block, store.load_block(*ctx_, config, done % 3, DType::f32)));
    }
    last = done;
  }
  EXPECT_GT(last, 0);
  EXPECT_GT(killed_half_way, 0) << "no kill hit a file half written";
}

TEST(RunFingerprint, FollowsWhatInfluencesTheResult) {
  const auto ctx = cpu::open(1);
  const TempFolder temp;
  write_tiny_model(*ctx, temp / "model", {});
  write_file(temp / "a.txt", "some text");
  RunConfig config;
  config.model = temp / "model";
  config.dataset = {temp / "a.txt"};
  config.output_dir = temp / "out";
  const Fingerprint base = fingerprint(config);
  const auto same = [&](const Fingerprint& other) {
    return base.config == other.config && base.model == other.model && base.dataset == other.dataset;
  };
  RunConfig free = config;
  free.threads = 3;
  free.output_dir = temp / "elsewhere";
  free.eval.windows = 5;
  free.export_format = Export::dense;
  fs::copy(temp / "model", temp / "moved");
  free.model = temp / "moved";
  EXPECT_TRUE(same(fingerprint(free)));
  EXPECT_NE(base.export_format, fingerprint(free).export_format);

  RunConfig bound = config;
  bound.rank = 6;
  EXPECT_EQ(fingerprint(bound).config.at("rank"), 6);
  EXPECT_FALSE(same(fingerprint(bound)));
  write_file(temp / "a.txt", "some texT");
  EXPECT_NE(fingerprint(config).dataset, base.dataset);
  write_file(temp / "a.txt", "some text");
  EXPECT_TRUE(same(fingerprint(config)));
  std::string shard = read_file(temp / "model/model.safetensors");
  shard[shard.size() - 3] = char(shard[shard.size() - 3] ^ 1);
  write_file(temp / "model/model.safetensors", shard);
  EXPECT_NE(fingerprint(config).model, base.model);
  config.dataset.push_back(temp / "missing.txt");
  EXPECT_TRUE(contains(error_text([&] { fingerprint(config); }), "missing.txt"));
}

// A sparse file stands for a shard of more than 1 GiB.
TEST(RunFingerprint, SamplesLargeShards) {
  const auto ctx = cpu::open(1);
  const TempFolder temp;
  write_tiny_model(*ctx, temp / "model", {});
  RunConfig config;
  config.model = temp / "model";
  const fs::path shard = temp / "model/model-00001-of-00001.safetensors";
  write_file(shard, "x");
  fs::resize_file(shard, (std::uintmax_t(1) << 30) + 12345);
  const std::string before = fingerprint(config).model;
  EXPECT_EQ(fingerprint(config).model, before);
  const auto put = [&](std::int64_t offset) {
    std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offset);
    file.put('y');
  };
  put(100);
  const std::string header_changed = fingerprint(config).model;
  EXPECT_NE(header_changed, before);
  put((std::int64_t(1) << 30) + 12344);
  EXPECT_NE(fingerprint(config).model, header_changed) << "the last byte";
}

}  // namespace
}  // namespace cbq
