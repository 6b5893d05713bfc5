// A training step on a two-block window beside its matrix products alone, at the shapes of real models with random
// weights: llama-24m on the CPU, LLaMA-7B to 65B and LLaMA-2-70B on a GPU.
//
// The products are those of the linear layers, and on the CPU those of attention too, with half of its keys, as the
// causal mask leaves them, each as one call for whole matrices. Times are medians of alternating repeats in one run, so
// that a noisy machine hits all of them. Counters:
//   step_ms, linear_ms, attention_ms   a step; its products
//   ratio, ratio_to_linear             the step over all its products, over those of the linear layers
//   tflops, gemm_tflops, share         of a step; of the linear layers' products; the first over the second
//   peak_bytes                         of device memory
//   model_minutes_extrapolated         79 such windows of 65B, say, at 128 samples and 3 epochs, with both streams
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <optional>

#include "bench/gpu.h"
#include "bench/products.h"
#include "core/rng.h"
#include "cpu/libraries.h"
#include "cpu/open.h"
#include "quant/window_step.h"

namespace cbq::bench {
namespace {

constexpr std::int64_t kSteps = 1000000;                          // of a window: rates change too slowly to be seen
constexpr std::int64_t kWindow = 2, kSamples = 128, kEpochs = 3;  // of the method's protocol
constexpr Shapes k24M{"llama-24m", 384, 1024, 6, 6, 64, 12, 1024};
constexpr Shapes kLarge[] = {{"LLaMA-7B", 4096, 11008, 32, 32, 128, 32, 2048},
                             {"LLaMA-13B", 5120, 13824, 40, 40, 128, 40, 2048},
                             {"LLaMA-30B", 6656, 17920, 52, 52, 128, 60, 2048},
                             {"LLaMA-65B", 8192, 22016, 64, 64, 128, 80, 2048},
                             {"LLaMA-2-70B", 8192, 28672, 64, 8, 128, 80, 2048}};

BlockWeights weights(const Setup& setup, const ModelConfig& config) {
  BlockWeights w;
  for (const LinearRole role : linear_roles(config.family))
    w[role].weight = setup.random(weight_shape(config, role), kWeightDeviation);
  w.attention_norm.weight = full(setup.ctx, {config.hidden}, setup.compute, 1);
  w.mlp_norm.weight = full(setup.ctx, {config.hidden}, setup.compute, 1);
  return w;
}

// Of one call among `calls` that follow one another.
template <class Fn>
double seconds(Context& ctx, int calls, const Fn& fn) {
  ctx.synchronize();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) fn();
  ctx.synchronize();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
}

// Calls that take long enough for a GPU to settle at the clock that their power allows: what ran before shows in the
// first hundredths of a second.
template <class Fn>
int calls_to_settle(Context& ctx, const Fn& fn) {
  constexpr double kSettled = 0.2;
  seconds(ctx, 1, fn);
  return int(std::clamp(kSettled / seconds(ctx, 1, fn), 1.0, 1000.0));
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct Times {
  double work, linear, attention;
};

// Times `work` and its products in turn; the first round warms up.
template <class Work, class Linear, class Attention>
Times compare(benchmark::State& state, Context& ctx, const Work& work, const Linear& linear,
              const Attention& attention) {
  std::vector<double> work_s, linear_s, attention_s;
  const int work_calls = calls_to_settle(ctx, work), linear_calls = calls_to_settle(ctx, linear),
            attention_calls = calls_to_settle(ctx, attention);
  int round = 0;
  for (auto _ : state) {
    const double w = seconds(ctx, work_calls, work), l = seconds(ctx, linear_calls, linear),
                 a = seconds(ctx, attention_calls, attention);
    state.SetIterationTime(w);
    if (round++ == 0) continue;
    work_s.push_back(w);
    linear_s.push_back(l);
    attention_s.push_back(a);
  }
  const Times times{median(work_s), median(linear_s), median(attention_s)};
  state.counters["step_ms"] = 1e3 * times.work;
  state.counters["linear_ms"] = 1e3 * times.linear;
  state.counters["attention_ms"] = 1e3 * times.attention;
  state.counters["ratio"] = times.work / (times.linear + times.attention);
  state.counters["ratio_to_linear"] = times.work / times.linear;
  return times;
}

struct Scheme {
  int wbits, abits;
  RoundingKind rounding;
};

void bench_step(benchmark::State& state, const Setup& setup, const Scheme& scheme) {
  Context& ctx = setup.ctx;
  const ModelConfig config = setup.shapes.config();
  RunConfig run;
  run.rounding = scheme.rounding;
  ctx.allocator->reset_peak();
  const std::int64_t bytes_before = ctx.allocator->peak_bytes();
  BlockSpec spec;
  spec.fill({{scheme.wbits, -1, Symmetry::asymmetric}, {scheme.abits, Symmetry::symmetric}});
  Rng rng(1);
  std::vector<std::unique_ptr<QuantBlock>> blocks;
  std::vector<QuantBlock*> window;
  for (std::int64_t i = 0; i < kWindow; ++i) {
    blocks.push_back(std::make_unique<QuantBlock>(ctx, config, weights(setup, config), spec, ActivationSpec{},
                                                  RoundingOptions{.kind = scheme.rounding}, rng));
    window.push_back(blocks.back().get());
  }
  const std::int64_t tokens = setup.shapes.tokens;
  const Sequence sequence = make_sequence(ctx, config, 1, 0, tokens, setup.compute);
  const auto random_sample = [&] {
    Stream stream(ctx, 1, {tokens, config.hidden}, setup.compute, {Offload::device});
    stream.store(ctx, 0, setup.random({tokens, config.hidden}, 1));
    return stream;
  };
  const Stream input = random_sample(), target = random_sample(), none;
  const WindowData data{input, target, none, 1};
  WindowStep window_step(ctx, config, run, window, sequence, data, 1, 1, kSteps);
  // Most steps of the annealed kinds have the regulariser.
  const Annealing annealing = annealing_at(run, kSteps / 2, kSteps);
  const std::int64_t only[] = {0};
  const auto step = [&] { window_step.run(only, annealing); };
  step();
  state.counters["peak_bytes"] = double(ctx.allocator->peak_bytes() - bytes_before);
  // A soft phase multiplies what lies between integers.
  const bool has_integers = scheme.abits <= 4 && scheme.wbits <= 4 && !is_annealed(scheme.rounding);
  const BlockProducts products(setup, config, has_integers ? Numbers::on_grid : Numbers::real);
  const Times times = compare(
      state, ctx, step,
      [&] {
        for (std::int64_t i = 0; i < kWindow; ++i) products.linear_step(ctx);
      },
      [&] {
        if (ctx.device == Device::cuda) return;  // cuBLASLt is no measure of attention there
        for (std::int64_t i = 0; i < kWindow; ++i) products.attention_step(ctx);
      });
  const Flops flops = forward_flops(setup.shapes, config);
  const double step_flops = kWindow * (3 * flops.linear + 3.5 * flops.attention);
  state.counters["tflops"] = 1e-12 * step_flops / times.work;
  state.counters["gemm_tflops"] = 1e-12 * kWindow * 3 * flops.linear / times.linear;
  state.counters["share"] = (step_flops / times.work) / (kWindow * 3 * flops.linear / times.linear);
  const double streams =
      2 * double(config.layers) * kSamples * times.work * (flops.linear + flops.attention) / step_flops;
  state.counters["model_minutes_extrapolated"] =
      (double(config.layers - 1) * double(kSamples * kEpochs) * times.work + streams) / 60;
}

void evaluation(benchmark::State& state, const Setup& setup) {
  Context& ctx = setup.ctx;
  const ModelConfig config = setup.shapes.config();
  DenseBlock block(config, weights(setup, config));
  const std::int64_t tokens = setup.shapes.tokens;
  const Sequence sequence = make_sequence(ctx, config, 1, 0, tokens, setup.compute);
  const Tensor ids = full(ctx, {tokens}, DType::i32, 7);
  const BlockProducts products(setup, config, Numbers::real);
  const Product head(setup, Numbers::real, tokens, config.vocab, config.hidden, 1);
  compare(
      state, ctx,
      [&] {
        Var y = head.x;
        for (std::int64_t i = 0; i < config.layers; ++i) y = block_forward(ctx, config, block, y, sequence);
        benchmark::DoNotOptimize(ops::cross_entropy(ctx, ops::linear(ctx, y, head.w), ids).value.data());
      },
      [&] {
        for (std::int64_t i = 0; i < config.layers; ++i)
          for (const Product& p : products.linear) p.forward(ctx);
        head.forward(ctx);
      },
      [&] {
        for (std::int64_t i = 0; i < config.layers; ++i)
          for (const Product& p : products.attention) p.forward(ctx);
      });
}

template <class Fn>
void add(const std::string& name, const Fn& fn) {
  benchmark::RegisterBenchmark(name.c_str(), fn)->UseManualTime()->Iterations(12)->Unit(benchmark::kMillisecond);
}

void add_cpu(Context& ctx, Normal& normal) {
  const Setup setup{ctx, normal, k24M, DType::f32};
  for (const auto& [name, kind] : {std::pair{"lora_ste", RoundingKind::lora_ste}, {"weights", RoundingKind::weights}})
    add(concat("cpu/", k24M.name, "/W2A16/", name), [setup, kind = kind](benchmark::State& state) {
      bench_step(state, setup, {2, 16, kind});
    });
  add(concat("cpu/", k24M.name, "/evaluation"), [setup](benchmark::State& state) { evaluation(state, setup); });
}

void add_gpu(Context& ctx, Normal& normal) {
  const auto add_steps = [&](const Shapes& shapes) {
    const Setup setup{ctx, normal, shapes, DType::bf16};
    for (const auto& [name, kind] : {std::pair{"lora_ste", RoundingKind::lora_ste}, {"lora", RoundingKind::lora}})
      add(concat("gpu/", shapes.name, "/W4A4/", name), [setup, kind = kind](benchmark::State& state) {
        bench_step(state, setup, {4, 4, kind});
      });
  };
  add_steps(k24M);
  for (const Shapes& shapes : kLarge) add_steps(shapes);
}

}  // namespace
}  // namespace cbq::bench

int main(int argc, char** argv) {
  using namespace cbq;
  using namespace cbq::bench;
  cpu::prepare_libraries(argv);
  const std::unique_ptr<Context> host = cpu::open(), gpu = open_gpu();
  Normal of_host(*host);
  std::optional<Normal> of_gpu;
  if (gpu) add_gpu(*gpu, of_gpu.emplace(*gpu));
  add_cpu(*host, of_host);
  benchmark::AddCustomContext("cpu", host->name);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
