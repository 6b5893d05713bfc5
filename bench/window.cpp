// A training step on a two-block window, and an evaluation forward, beside the time of their matrix products alone.
//
// Weights are random at llama-24m's shapes (d 384, 6 heads, ffn 1024, vocabulary 4096, T = 1024). The products are
// those of the linear layers, and of attention with half of its keys, as the causal mask leaves them, each as one call
// for whole matrices. The counter `ratio` is step time over the time of all products, `ratio_to_linear` over those of
// the linear layers: medians of alternating repeats in one run, so that a noisy machine hits all of them.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "core/kernels.h"
#include "core/rng.h"
#include "cpu/libraries.h"
#include "cpu/open.h"
#include "models/model.h"
#include "quant/objective.h"

namespace cbq {
namespace {

constexpr std::int64_t kTokens = 1024;

ModelConfig shapes() {
  ModelConfig c{};
  c.family = Family::llama;
  c.layers = 2, c.hidden = 384, c.ffn = 1024, c.heads = 6, c.kv_heads = 6, c.head_dim = 64, c.vocab = 4096;
  c.max_positions = 2048;
  c.norm_eps = 1e-5;
  c.activation = Activation::silu;
  c.dtype = DType::f16;
  return c;
}

Tensor randn(Context& ctx, Shape shape, double scale) {
  static Rng rng(1);
  std::vector<float> values(static_cast<std::size_t>(shape.count()));
  for (float& v : values) v = float(scale * rng.normal());
  return from_host<float>(ctx, shape, DType::f32, values);
}

BlockWeights weights(Context& ctx, const ModelConfig& config) {
  BlockWeights w;
  for (const LinearRole role : linear_roles(config.family))
    w[role].weight = randn(ctx, weight_shape(config, role), 0.05);
  w.attention_norm.weight = full(ctx, {config.hidden}, DType::f32, 1);
  w.mlp_norm.weight = full(ctx, {config.hidden}, DType::f32, 1);
  return w;
}

// y = x w^T, and in training dx = dy w and dw = dy^T x.
struct Product {
  Tensor x, w, y;
  void forward(Context& ctx) const { ctx.kernels->matmul(ctx, y, x, Trans::no, w, Trans::yes, View(), Write::set); }
  void backward(Context& ctx) const {
    ctx.kernels->matmul(ctx, x, y, Trans::no, w, Trans::no, View(), Write::set);
    ctx.kernels->matmul(ctx, w, y, Trans::yes, x, Trans::no, View(), Write::set);
  }
};

// The products of one block. Attention's are scores = q k^T and o^T = v^T p^T, with the backward of both and the scores
// once more.
struct BlockProducts {
  std::vector<Product> linear, attention;

  BlockProducts(Context& ctx, const ModelConfig& config) {
    const auto product = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
      return Product{randn(ctx, {m, k}, 1e-3), randn(ctx, {n, k}, 1e-3), randn(ctx, {m, n}, 1e-3)};
    };
    for (const LinearRole role : linear_roles(config.family)) {
      const Shape w = weight_shape(config, role);
      linear.push_back(product(kTokens, w[0], w[1]));
    }
    for (std::int64_t head = 0; head < config.heads; ++head) {
      attention.push_back(product(kTokens, kTokens / 2, config.head_dim));
      attention.push_back(product(config.head_dim, kTokens, kTokens / 2));
    }
  }
  void linear_step(Context& ctx) const {
    for (const Product& p : linear) p.forward(ctx), p.backward(ctx);
  }
  void attention_step(Context& ctx) const {
    for (const Product& p : attention) p.forward(ctx), p.backward(ctx);
    for (std::size_t head = 0; head < attention.size(); head += 2) attention[head].forward(ctx);
  }
};

template <class Fn>
double seconds(const Fn& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Times `work` and its products in turn; the first two rounds warm up.
template <class Work, class Linear, class Attention>
void compare(benchmark::State& state, const Work& work, const Linear& linear, const Attention& attention) {
  std::vector<double> work_s, linear_s, attention_s;
  int round = 0;
  for (auto _ : state) {
    const double w = seconds(work), l = seconds(linear), a = seconds(attention);
    state.SetIterationTime(w);
    if (round++ < 2) continue;
    work_s.push_back(w);
    linear_s.push_back(l);
    attention_s.push_back(a);
  }
  const double work_time = median(work_s), linear_time = median(linear_s), attention_time = median(attention_s);
  state.counters["step_ms"] = 1e3 * work_time;
  state.counters["linear_ms"] = 1e3 * linear_time;
  state.counters["attention_ms"] = 1e3 * attention_time;
  state.counters["ratio"] = work_time / (linear_time + attention_time);
  state.counters["ratio_to_linear"] = work_time / linear_time;
}

void window_step(benchmark::State& state, RoundingKind kind) {
  const auto ctx = cpu::open();
  const ModelConfig config = shapes();
  RunConfig run;
  run.wbits = 2;
  BlockSpec spec;
  spec.fill({{2, -1, Symmetry::asymmetric}, {}});
  Rng rng(1);
  std::vector<std::unique_ptr<QuantBlock>> blocks;
  ParameterGroup group{.parameters = {}, .lr = 1e-3};
  for (int i = 0; i < 2; ++i) {
    blocks.push_back(std::make_unique<QuantBlock>(*ctx, config, weights(*ctx, config), spec, ActivationSpec{},
                                                  RoundingOptions{.kind = kind}, rng));
    for (Parameter* p : blocks.back()->rounding_parameters()) group.parameters.push_back(p);
    for (Parameter* p : blocks.back()->scale_parameters()) group.parameters.push_back(p);
  }
  Optimizer optimizer(*ctx, {group}, 1000000);
  const Sequence sequence = make_sequence(*ctx, config, 1, 0, kTokens, DType::f32);
  const Tensor x = randn(*ctx, {kTokens, config.hidden}, 1), target = randn(*ctx, {kTokens, config.hidden}, 1);
  const BlockProducts products(*ctx, config);
  compare(
      state,
      [&] {
        Tape tape(*ctx);
        Var y = x;
        for (const auto& block : blocks) {
          block->use(&tape, Hardness::hard);
          y = block_forward(*ctx, config, *block, y, sequence);
        }
        tape.backward(distance(*ctx, run, target, y));
        optimizer.step();
      },
      [&] {
        for (int i = 0; i < 2; ++i) products.linear_step(*ctx);
      },
      [&] {
        for (int i = 0; i < 2; ++i) products.attention_step(*ctx);
      });
}

void evaluation(benchmark::State& state) {
  const auto ctx = cpu::open();
  const ModelConfig config = shapes();
  DenseBlock block(config, weights(*ctx, config));
  const Sequence sequence = make_sequence(*ctx, config, 1, 0, kTokens, DType::f32);
  const Tensor x = randn(*ctx, {kTokens, config.hidden}, 1), head = randn(*ctx, {config.vocab, config.hidden}, 0.05);
  const Tensor ids = full(*ctx, {kTokens}, DType::i32, 7);
  const BlockProducts products(*ctx, config);
  const Product head_product{x, head, Tensor(*ctx, {kTokens, config.vocab}, DType::f32)};
  constexpr int kBlocks = 12;
  compare(
      state,
      [&] {
        Var y = x;
        for (int i = 0; i < kBlocks; ++i) y = block_forward(*ctx, config, block, y, sequence);
        benchmark::DoNotOptimize(ops::cross_entropy(*ctx, ops::linear(*ctx, y, head), ids).value.data());
      },
      [&] {
        for (int i = 0; i < kBlocks; ++i)
          for (const Product& p : products.linear) p.forward(*ctx);
        head_product.forward(*ctx);
      },
      [&] {
        for (int i = 0; i < kBlocks; ++i)
          for (const Product& p : products.attention) p.forward(*ctx);
      });
}

BENCHMARK_CAPTURE(window_step, lora_ste, RoundingKind::lora_ste)
    ->UseManualTime()
    ->Iterations(12)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(window_step, weights, RoundingKind::weights)
    ->UseManualTime()
    ->Iterations(12)
    ->Unit(benchmark::kMillisecond);
BENCHMARK(evaluation)->UseManualTime()->Iterations(12)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace cbq

int main(int argc, char** argv) {
  cbq::cpu::prepare_libraries(argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
