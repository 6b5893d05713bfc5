// The run store when files are damaged, the disk is full or the process is killed.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>

#include "tests/killed_child.h"
#include "tests/store_fixture.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

using StoreFaults = Store;

TEST_F(StoreFaults, DamagedFilesSayWhatToDelete) {
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
                                   {"kv_cache", "kv_cachf"},
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

TEST_F(StoreFaults, AFullDiskIsOneErrorAndLeavesTheLastState) {
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
TEST_F(StoreFaults, AKillAtAnyMomentLeavesTheLastCompleteState) {
  const ModelConfig config = write_tiny_model(*ctx_, temp_ / "model", {});
  const auto delay_seed = static_cast<std::uint64_t>(getpid());
  Rng rng(5), delays(delay_seed);
  SCOPED_TRACE(concat("delay seed ", delay_seed));
  const HardBlock block = random_hard_block(*ctx_, rng, config, mixed_spec(config), DType::f32);
  std::int64_t last = 0, killed_half_way = 0;
  for (int round = 0; round < 40; ++round) {
    test::kill_while(std::chrono::microseconds(2000 + delays.below(30000)), [&] {
      RunStore store(output_, kRun);
      for (std::int64_t n = store.windows_done() + 1;; ++n) {
        store.save_block(*ctx_, n % 3, block, DType::f16);
        store.save_window(*ctx_, n, state(float(n)), {{"window", n}});
      }
    });
    if (HasFatalFailure()) return;
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

}  // namespace
}  // namespace cbq
