// Tensors read ahead: the same bytes, from another place, whenever they are asked for.
#include "models/staged_tensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "checkpoint_files.h"
#include "core/kernels.h"
#include "cpu/open.h"
#include "models/weights.h"
#include "resident_memory.h"
#include "temp_folder.h"

namespace cbq {
namespace {

// Host memory of `room` bytes at most.
class Tight final : public Allocator {
 public:
  explicit Tight(std::int64_t room) : room_(room) {}
  void* allocate(std::int64_t bytes) override {
    if (bytes > room_) fail(ErrorKind::out_of_memory, "no room for ", bytes, " bytes");
    count_allocation(bytes);
    return ::operator new(std::size_t(bytes));
  }
  void deallocate(void* block, std::int64_t bytes) noexcept override {
    count_release(bytes);
    ::operator delete(block);
  }
  void trim() override {}

 private:
  std::int64_t room_;
};

// The CPU's kernels on a device that says it is not the host.
class Other final : public Context {
 public:
  explicit Other(Context& of, std::int64_t room = std::int64_t(1) << 40)
      : Context(Device::cuda, "other", *of.kernels, of.allocator, std::make_shared<Tight>(room)) {}
  void synchronize() override {}
  std::int64_t bytes_available() const override { return std::int64_t(1) << 40; }
};

const auto kCpu = cpu::open();

std::vector<std::byte> pattern(std::size_t count, unsigned seed) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = std::byte((i * 31 + seed) & 255);
  return bytes;
}

TEST(StagedTensors, AreCopies) {
  Other device(*kCpu);
  const auto a = pattern(20 << 20, 1), b = pattern(1000, 2), empty = pattern(0, 0), c = pattern(3 << 20, 3);
  std::atomic<int> released = 0;
  const auto release = [&] { ++released; };
  StagedTensors staged;
  EXPECT_TRUE(staged.bytes("a").empty());
  staged.start(device, {{"a", a, release}, {"empty", empty, release}, {"b", b, release}});
  for (int i = 0; i < 2; ++i)
    for (const auto& [name, expected] : {std::pair{"b", &b}, {"a", &a}, {"empty", &empty}}) {
      const std::span<const std::byte> copy = staged.bytes(name);
      EXPECT_TRUE(std::ranges::equal(copy, *expected)) << name;
      EXPECT_TRUE(copy.empty() || copy.data() != expected->data()) << name;
    }
  EXPECT_EQ(released, 3);
  EXPECT_TRUE(staged.bytes("c").empty());
  const void* before = staged.bytes("a").data();
  staged.start(device, {{"c", c, release}});
  EXPECT_TRUE(std::ranges::equal(staged.bytes("c"), c));
  EXPECT_EQ(staged.bytes("c").data(), before) << "page-locked memory was made anew";
  EXPECT_TRUE(staged.bytes("a").empty());
}

TEST(StagedTensors, StopEarly) {
  Other device(*kCpu);
  const auto large = pattern(64 << 20, 1), small = pattern(10, 2);
  StagedTensors staged;
  for (int i = 0; i < 20; ++i) staged.start(device, {{"large", large, [] {}}});
  staged.start(device, {{"small", small, [] {}}});
  EXPECT_TRUE(std::ranges::equal(staged.bytes("small"), small));
}

TEST(StagedTensors, WithoutHostMemoryTheMapIsRead) {
  Other device(*kCpu, 100);
  const auto a = pattern(1000, 1), b = pattern(64, 2);
  StagedTensors staged;
  staged.start(device, {{"a", a, [] {}}});
  EXPECT_TRUE(staged.bytes("a").empty());
  staged.start(device, {{"b", b, [] {}}});
  EXPECT_TRUE(std::ranges::equal(staged.bytes("b"), b));
}

std::vector<StoredTensor> shard() {
  std::vector<StoredTensor> tensors;
  for (const char* name : {"model.layers.1.w", "model.layers.10.w", "model.layers.2.w", "model.norm"}) {
    std::vector<float> values(1 << 18);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i % 977) + float(tensors.size());
    tensors.push_back(stored(name, DType::f32, {std::int64_t(values.size())}, values));
  }
  return tensors;
}

TEST(ReadAhead, LoadsTheSameTensors) {
  const TempFolder folder;
  write_shard(folder / "model.safetensors", shard());
  const Checkpoint plain(folder.path());
  EXPECT_EQ(plain.bytes_below("model.layers.1."), 4 << 18);
  EXPECT_EQ(plain.bytes_below("model.layers."), 12 << 18);
  EXPECT_EQ(plain.bytes_below("absent"), 0);
  Other roomy(*kCpu), tight(*kCpu, 100);
  for (Context* ctx :
       {static_cast<Context*>(kCpu.get()), static_cast<Context*>(&roomy), static_cast<Context*>(&tight)}) {
    const Checkpoint checkpoint(folder.path());
    checkpoint.read_ahead(*ctx, {"model.layers.1.", "model.layers.2."});
    EXPECT_EQ(ctx->host_allocator->bytes_in_use() > 0, ctx == &roomy);
    for (const std::string& name : plain.names()) {
      const Tensor expected = plain.load(*kCpu, name, {1 << 18}, DType::f32);
      for (int i = 0; i < 2; ++i)
        EXPECT_EQ(to_host<float>(*kCpu, checkpoint.load(*ctx, name, {1 << 18}, DType::f32)),
                  to_host<float>(*kCpu, expected));
    }
  }
}

// On the host nothing is copied, but the pages are there.
TEST(ReadAhead, BringsPagesIn) {
  const TempFolder folder;
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 16; ++i)
    tensors.push_back(stored(concat("layers.", i), DType::f32, {1 << 19}, std::vector<float>(1 << 19, float(i))));
  write_shard(folder / "model.safetensors", tensors);
  const Checkpoint checkpoint(folder.path());
  const std::int64_t before = resident_file_bytes();
  checkpoint.read_ahead(*kCpu, {"layers."});
  for (int wait = 0; wait < 2000 && resident_file_bytes() - before < 24 << 20; ++wait) usleep(5000);
  EXPECT_GE(resident_file_bytes() - before, 24 << 20);
}

}  // namespace
}  // namespace cbq
