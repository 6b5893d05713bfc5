// What makes a step cheap on the GPU: memory that is kept, results read later, steps recorded once and replayed. None
// of it may change a bit.
#include "quant/window_step.h"

#include <cstdlib>

#include "tests/error_text.h"
#include "tests/gpu.h"

namespace cbq::test {
namespace {

// The same GPU, waiting after each launch: nothing is recorded there.
Context& waiting_gpu() {
  static const std::unique_ptr<Context> context = [] {
    setenv("CBQ_SYNC", "1", 1);
    auto opened = cuda::open(0, FreshMemory::nan_bytes);
    unsetenv("CBQ_SYNC");
    return opened;
  }();
  return *context;
}

bool is_sync_asked_for() {
  const char* value = std::getenv("CBQ_SYNC");
  return value && value[0] == '1';
}

TEST(CudaMemory, AFreedBlockServesTheNextRequestOfItsSize) {
  Context& ctx = gpu();
  void* first = Tensor(ctx, {1000}, DType::f32).data();
  EXPECT_EQ(Tensor(ctx, {1001}, DType::f32).data(), first);  // both are 4096 bytes of the pool
  const Tensor other(ctx, {5000}, DType::f32), again(ctx, {1000}, DType::f32), fresh(ctx, {1000}, DType::f32);
  EXPECT_EQ(again.data(), first);
  EXPECT_NE(fresh.data(), first);
}

TEST(CudaMemory, KeptBlocksCountAsAvailableAndGoBack) {
  Context& ctx = gpu();
  ctx.allocator->trim();
  const std::int64_t before = ctx.bytes_available(), in_use = ctx.allocator->bytes_in_use();
  constexpr std::int64_t kBytes = 64 << 20;
  { const Tensor x(ctx, {kBytes}, DType::u8); }
  EXPECT_EQ(ctx.allocator->bytes_in_use(), in_use);
  EXPECT_GE(ctx.bytes_available(), before - kBytes / 2);
  ctx.allocator->trim();
  EXPECT_GE(ctx.bytes_available(), before - kBytes / 2);
}

// Kept blocks of one size make room for another, and what cannot be had is an Error that leaves the device usable.
TEST(CudaMemory, KeptBlocksMakeRoom) {
  Context& ctx = gpu();
  ctx.allocator->trim();
  const std::int64_t most = ctx.bytes_available() / 8 * 5;
  { const Tensor x(ctx, {most}, DType::u8); }
  { const Tensor y(ctx, {most + (1 << 20)}, DType::u8); }
  EXPECT_NE(error_text([&] { Tensor(ctx, {std::int64_t(1) << 46}, DType::u8); }, ErrorKind::failure)
                .find("memory: no room for 70368744177664 bytes on the GPU"),
            std::string::npos);
  ctx.allocator->trim();
  ctx.allocator->reset_peak();
  EXPECT_EQ(to_host<float>(ctx, full(ctx, {3}, DType::f32, 2)), std::vector<float>(3, 2.f));
}

TEST(CudaReadLater, GivesWhatWasThereWhenItWasAsked) {
  for (Context* ctx : {&gpu(), &waiting_gpu(), &host()}) {
    const Tensor x = full(*ctx, {16}, DType::f32, 1);
    std::vector<std::function<std::vector<float>()>> reads;
    for (int i = 0; i < 50; ++i) {
      ctx->kernels->fill(*ctx, x, i);
      reads.push_back(to_host_later(*ctx, x.slice(0, 0, 1 + i % 16)));
    }
    ctx->kernels->fill(*ctx, x, -1);
    for (int i = 49; i >= 0; --i) EXPECT_EQ(reads[std::size_t(i)](), std::vector<float>(1 + i % 16, float(i)));
    to_host_later(*ctx, x);  // nobody looks
  }
}

TEST(CudaReplay, RunsOnTheSameAddressesAgain) {
  if (is_sync_asked_for()) GTEST_SKIP() << "CBQ_SYNC=1 switches recordings off";
  Context& ctx = gpu();
  const Tensor x = full(ctx, {1000}, DType::f32, 1), y(ctx, {1000}, DType::f32);
  const auto work = [&] {
    const Tensor square(ctx, {1000}, DType::f32), sum(ctx, {1000}, DType::f32);
    ctx.kernels->mul(ctx, square, x, x);
    ctx.kernels->add(ctx, sum, square, x);
    ctx.kernels->scale(ctx, y, sum, 2);
  };
  work();
  const std::int64_t in_use = ctx.allocator->bytes_in_use();
  const auto replay = ctx.record(work);
  ASSERT_NE(replay, nullptr);
  EXPECT_EQ(ctx.allocator->bytes_in_use(), in_use);
  // Tensors of the recorded sizes lie elsewhere than its scratch.
  std::vector<Tensor> others;
  for (int i = 0; i < 8; ++i) others.push_back(full(ctx, {1000}, DType::f32, 100 + i));
  for (const float value : {3.f, -2.f, 0.5f}) {
    ctx.kernels->fill(ctx, x, double(value));
    replay->run();
    EXPECT_EQ(to_host<float>(ctx, y), std::vector<float>(1000, 2 * (value * value + value)));
  }
  for (int i = 0; i < 8; ++i)
    EXPECT_EQ(to_host<float>(ctx, others[std::size_t(i)]), std::vector<float>(1000, float(100 + i)));
}

// No block of that size is kept, or the host looks at a result: the work is done the usual way, and the device is fine.
TEST(CudaReplay, WhatCannotBeRecordedIsRefused) {
  Context& ctx = gpu();
  const Tensor x = full(ctx, {1000}, DType::f32, 1);
  EXPECT_EQ(ctx.record([&] { full(ctx, {123457}, DType::f32, 1); }), nullptr);
  EXPECT_EQ(ctx.record([&] { to_host<float>(ctx, x); }), nullptr);
  EXPECT_EQ(to_host<float>(ctx, x), std::vector<float>(1000, 1.f));
  EXPECT_EQ(waiting_gpu().record([] {}), nullptr);
}

constexpr std::int64_t kTokens = 48, kSamples = 9;

ModelConfig tiny_llama() {
  ModelConfig c{};
  c.family = Family::llama;
  c.layers = 2, c.hidden = 64, c.ffn = 96, c.heads = 4, c.kv_heads = 2, c.head_dim = 16, c.vocab = 32;
  c.max_positions = kTokens;
  c.norm_eps = 1e-5;
  c.activation = Activation::silu;
  c.dtype = DType::f16;
  return c;
}

// Two blocks of random weights with what they learn, and the streams around them.
struct TinyWindow {
  Context& ctx;
  RunConfig run;
  ModelConfig model = tiny_llama();
  Sequence sequence;
  std::vector<std::unique_ptr<QuantBlock>> blocks;
  std::vector<QuantBlock*> window;
  Stream input, target, homologous;

  TinyWindow(Context& ctx_, const RunConfig& run_, DType compute, Offload offload)
      : ctx(ctx_), run(run_), sequence(make_sequence(ctx, model, 1, 0, kTokens, compute)) {
    std::uint64_t seed = 1;
    const auto random = [&](const Shape& shape, double deviation) {
      return convert(ctx, from_host<float>(ctx, shape, DType::f32, randn(shape.count(), seed++, deviation)), compute);
    };
    BlockSpec spec;
    spec.fill({{3, 32, Symmetry::asymmetric}, {4, Symmetry::symmetric}});
    for (LinearRole role : {LinearRole::o, LinearRole::gate, LinearRole::down})  // products of integers
      spec[std::size_t(role)].weight.group_size = -1;
    Rng rng(7);
    for (int i = 0; i < 2; ++i) {
      BlockWeights weights;
      for (const LinearRole role : linear_roles(model.family))
        weights[role].weight = random(weight_shape(model, role), 0.1);
      weights.attention_norm.weight = weights.mlp_norm.weight = full(ctx, {model.hidden}, compute, 1);
      blocks.push_back(std::make_unique<QuantBlock>(ctx, model, std::move(weights), spec,
                                                    ActivationSpec{8, Symmetry::asymmetric},
                                                    RoundingOptions{.kind = run.rounding}, rng));
      window.push_back(blocks.back().get());
    }
    const auto stream = [&](std::int64_t count) {
      Stream made(ctx, count, {kTokens, model.hidden}, compute, {offload, testing::TempDir()});
      for (std::int64_t i = 0; i < count; ++i) made.store(ctx, i, random({kTokens, model.hidden}, 1));
      return made;
    };
    input = stream(kSamples), target = stream(kSamples), homologous = stream(run.homologous ? kSamples : 0);
  }
  WindowData data() const { return {input, target, homologous, kSamples - 1}; }
};

struct Outcome {
  WindowResult result;
  std::vector<double> progress;
  std::map<std::string, std::vector<float>> learned;
};

Outcome solve(Context& ctx, const RunConfig& run, DType compute, Offload offload) {
  TinyWindow tiny(ctx, run, compute, offload);
  Outcome outcome;
  outcome.result = optimise_window(ctx, tiny.model, tiny.run, {0, 2, 2}, tiny.window, tiny.sequence, tiny.data(), 1, {},
                                   [&](const WindowProgress& p) { outcome.progress.push_back(p.loss); });
  for (std::size_t i = 0; i < tiny.blocks.size(); ++i)
    for (const auto& [name, tensor] : tiny.blocks[i]->state())
      outcome.learned[concat(i, ".", name)] = to_host<float>(ctx, tensor);
  return outcome;
}

void expect_same_bits(const RunConfig& run, DType compute, Offload offload) {
  SCOPED_TRACE(
      concat("rounding ", int(run.rounding), ", ", compute, ", batch ", run.batch_size, ", place ", int(offload)));
  const Outcome replayed = solve(gpu(), run, compute, offload), single = solve(waiting_gpu(), run, compute, offload);
  EXPECT_EQ(replayed.result.losses, single.result.losses);
  EXPECT_EQ(replayed.result.end_distance, single.result.end_distance);
  EXPECT_EQ(replayed.progress, single.progress);
  EXPECT_EQ(replayed.learned, single.learned);
}

// Batches of 3 leave a smaller one at the end of each epoch.
TEST(CudaWindow, ReplayedStepsGiveTheSameBits) {
  RunConfig run;
  run.epochs = 6;
  for (const RoundingKind kind :
       {RoundingKind::lora_ste, RoundingKind::weights, RoundingKind::sign, RoundingKind::lora, RoundingKind::dense})
    for (const DType compute : {DType::f32, DType::bf16})
      for (const std::int64_t batch : {1, 3}) {
        run.rounding = kind, run.batch_size = batch, run.homologous = batch == 1;
        expect_same_bits(run, compute, Offload::device);
      }
}

TEST(CudaWindow, ReplayedStepsReadStreamsOfEveryPlace) {
  RunConfig run;
  run.epochs = 6, run.homologous = true;
  for (const Offload offload : {Offload::host, Offload::disk}) expect_same_bits(run, DType::bf16, offload);
}

TEST(CudaWindow, TheSecondOfTwoLikeStepsIsRecorded) {
  if (is_sync_asked_for()) GTEST_SKIP() << "CBQ_SYNC=1 switches recordings off";
  Context& ctx = gpu();
  const std::int64_t in_use = ctx.allocator->bytes_in_use();
  {
    TinyWindow tiny(ctx, RunConfig{}, DType::bf16, Offload::device);
    const WindowData data = tiny.data();
    WindowStep step(ctx, tiny.model, tiny.run, tiny.window, tiny.sequence, data, 1, 1, 100);
    const auto replayed = [&](std::vector<std::int64_t> samples, const Annealing& annealing) {
      step.run(samples, annealing);
      return step.was_replayed();
    };
    const Annealing hard{Hardness::hard};
    EXPECT_FALSE(replayed({0}, hard));
    EXPECT_TRUE(replayed({1}, hard));
    EXPECT_TRUE(replayed({2}, hard));
    EXPECT_FALSE(replayed({0, 1}, hard));
    EXPECT_TRUE(replayed({2, 3}, hard));
    EXPECT_FALSE(replayed({2}, hard));
    EXPECT_TRUE(replayed({2}, hard));
    for (QuantBlock* block : tiny.window) block->use(nullptr, Hardness::hard);
  }
  EXPECT_EQ(ctx.allocator->bytes_in_use(), in_use);
}

}  // namespace
}  // namespace cbq::test
