// Devices that run out of memory or break during a run: what the error says, and that the run goes on to the same
// bytes. The CPU backend stands in for the device, with an allocator or a kernel that fails.
#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "core/kernels.h"
#include "cpu/open.h"
#include "quant/run.h"
#include "tests/error_text.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

// Memory of which `limit` bytes can be in use.
class LimitedAllocator final : public Allocator {
 public:
  LimitedAllocator(std::shared_ptr<Allocator> from, std::int64_t limit) : from_(std::move(from)), limit_(limit) {}
  void* allocate(std::int64_t bytes) override {
    if (bytes_in_use() + bytes > limit_) fail(ErrorKind::out_of_memory, "memory: no room for ", bytes, " bytes");
    count_allocation(bytes);
    return from_->allocate(bytes);
  }
  void deallocate(void* block, std::int64_t bytes) noexcept override {
    if (block) count_release(bytes);
    from_->deallocate(block, bytes);
  }
  void trim() override { from_->trim(); }

 private:
  std::shared_ptr<Allocator> from_;
  std::int64_t limit_;
};

// The CPU with other memory or kernels, which says that `available` bytes are free.
class TestContext final : public Context {
 public:
  TestContext(Context& cpu, const Kernels& table, std::shared_ptr<Allocator> memory, std::int64_t available)
      : Context(Device::cpu, "test", table, std::move(memory), cpu.host_allocator), available_(available) {}
  void synchronize() override {}
  std::int64_t bytes_available() const override { return available_; }

 private:
  std::int64_t available_;
};

constexpr std::int64_t kPlenty = std::int64_t(1) << 40;

class RunFaults : public testing::Test {
 protected:
  RunFaults() {
    config_.model = "examples/tiny-llama/model";
    config_.dataset = {"examples/tiny-llama/calib.jsonl"};
    config_.nsamples = 6, config_.heldout = 2, config_.seqlen = 32, config_.epochs = 1, config_.wbits = 3;
  }
  void run_on(Context& ctx, const std::string& output) {
    config_.output_dir = folder_ / output;
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> log(std::tmpfile(), std::fclose);
    run(ctx, config_, log.get(), {});
  }
  std::string model_bytes(const std::string& output) { return read_file(folder_ / output / "model.safetensors"); }
  std::int64_t windows_done(const std::string& output) {
    return nlohmann::json::parse(read_file(folder_ / output / ".cbq" / "progress.json")).at("windows_done");
  }

  std::unique_ptr<Context> cpu_ = cpu::open(1);
  TempFolder folder_;
  RunConfig config_;
};

TEST_F(RunFaults, AMemoryTooSmallIsRefusedBeforeAnyWork) {
  TestContext small(*cpu_, *cpu_->kernels, cpu_->allocator, 1 << 20);
  config_.offload = Offload::device, config_.batch_size = 4;
  const std::string text = error_text([&] { run_on(small, "out"); });
  EXPECT_TRUE(text.starts_with("memory: the run needs ")) << text;
  EXPECT_NE(text.find(" of the device, 1.0 MB are free; use \"offload\": \"disk\", or a smaller batch_size, or a "
                      "smaller window, or a smaller rank, or a shorter seqlen"),
            std::string::npos)
      << text;
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(RunFaults, ARunOutOfMemorySaysWhatNeedsLessAndGoesOn) {
  run_on(*cpu_, "whole");
  const std::int64_t plan = plan_run(cpu_.get(), config_).memory.device_bytes();
  TestContext small(*cpu_, *cpu_->kernels, std::make_shared<LimitedAllocator>(cpu_->allocator, plan * 7 / 10), kPlenty);
  const std::string text = error_text([&] { run_on(small, "stopped"); }, ErrorKind::out_of_memory);
  EXPECT_TRUE(text.starts_with("memory: no room for ")) << text;
  EXPECT_NE(text.find("; finished windows are kept, the same command goes on when there is more, or with \"offload\": "
                      "\"disk\", and in another output_dir less is needed by a smaller window, or a smaller rank, or a "
                      "shorter seqlen"),
            std::string::npos)
      << text;
  EXPECT_FALSE(fs::exists(folder_ / "stopped" / "config.json"));
  run_on(*cpu_, "stopped");
  EXPECT_EQ(model_bytes("whole"), model_bytes("stopped"));
}

int steps_left = 0;  // of the optimiser, before it breaks

TEST_F(RunFaults, ALostDeviceKeepsFinishedWindows) {
  run_on(*cpu_, "whole");
  static const Kernels* working = cpu_->kernels;
  Kernels table = *working;
  table.adamw_step = [](Context& ctx, std::span<const AdamTensor> tensors) {
    if (steps_left-- <= 0) fail(ErrorKind::device_lost, "cuda: the GPU stopped working");
    working->adamw_step(ctx, tensors);
  };
  TestContext breaking(*cpu_, table, cpu_->allocator, kPlenty);
  steps_left = 8;  // six a window
  EXPECT_EQ(error_text([&] { run_on(breaking, "stopped"); }, ErrorKind::device_lost),
            "cuda: the GPU stopped working; finished windows are kept, the same command goes on");
  EXPECT_EQ(windows_done("stopped"), 1);
  run_on(*cpu_, "stopped");
  EXPECT_EQ(model_bytes("whole"), model_bytes("stopped"));
}

}  // namespace
}  // namespace cbq
