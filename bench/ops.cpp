// The ops of tests/cases.h at the shapes of LLaMA-7B on the CPU in f32: forward alone, and forward with backward.
// Allocation is part of an op and is timed with it. bytes and items per second count one forward's traffic and its
// floating-point operations.
#include <benchmark/benchmark.h>

#include "cpu/libraries.h"
#include "cpu/open.h"
#include "tests/cases.h"

namespace cbq::bench {
namespace {

using test::OpCase;
using test::Role;

constexpr std::int64_t kTokens = 512;  // of one sequence

enum class Pass { forward, forward_and_backward };

std::vector<Tensor> make_inputs(Context& ctx, const OpCase& c) {
  const std::vector<test::Values> values = c.sample();
  std::vector<Tensor> inputs;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (c.inputs[i].role == Role::index) {
      const std::vector<std::int32_t> ids(values[i].begin(), values[i].end());
      inputs.push_back(from_host<std::int32_t>(ctx, c.inputs[i].shape, DType::i32, ids));
    } else {
      inputs.push_back(from_host<double>(ctx, c.inputs[i].shape, DType::f32, values[i]));
    }
  }
  return inputs;
}

void run(benchmark::State& state, Context& ctx, const OpCase& c, Pass pass) {
  const std::vector<Tensor> inputs = make_inputs(ctx, c);
  for (auto _ : state) {
    Tape tape(ctx);
    std::vector<Var> vars;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const bool is_leaf = pass == Pass::forward_and_backward && c.inputs[i].role == Role::differentiated;
      vars.push_back(is_leaf ? tape.leaf(inputs[i]) : Var(inputs[i]));
    }
    const Var y = c.run(ctx, vars);
    if (pass == Pass::forward_and_backward) tape.backward(y);
    ctx.synchronize();
    benchmark::DoNotOptimize(y.value.data());
  }
  if (pass == Pass::forward_and_backward) return;
  state.counters["bytes"] = benchmark::Counter(c.bytes, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["flops"] = benchmark::Counter(c.flops, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace
}  // namespace cbq::bench

int main(int argc, char** argv) {
  using namespace cbq;
  cpu::prepare_libraries(argv);
  const std::unique_ptr<Context> ctx = cpu::open();
  const std::vector<test::OpCase> cases = test::model_cases(bench::kTokens);
  for (const test::OpCase& c : cases) {
    for (bench::Pass pass : {bench::Pass::forward, bench::Pass::forward_and_backward}) {
      const std::string name = concat(c.name, pass == bench::Pass::forward ? "/forward" : "/forward_and_backward");
      benchmark::RegisterBenchmark(name.c_str(),
                                   [&ctx, &c, pass](benchmark::State& state) { bench::run(state, *ctx, c, pass); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
  benchmark::AddCustomContext("device", ctx->name);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
