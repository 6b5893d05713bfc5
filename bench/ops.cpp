// Ops and kernels one at a time. On the GPU, where there is one: the kernels of core/kernels.h at the shapes of
// LLaMA-65B beside the copy and product rates of the device (bench/ops_gpu.h). On the CPU: the ops of tests/cases.h at
// the shapes of LLaMA-7B in f32, forward alone, and forward with backward. Allocation is part of an op and is timed
// with it. Rates count one forward's traffic and its floating-point operations.
#include <benchmark/benchmark.h>

#include "bench/gpu.h"
#include "bench/ops_gpu.h"
#include "bench/table.h"
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
  state.counters["GB/s"] = benchmark::Counter(1e-9 * c.bytes, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["TFLOP/s"] = benchmark::Counter(1e-12 * c.flops, benchmark::Counter::kIsIterationInvariantRate);
}

void add_cpu_rows(Context& ctx, const std::vector<OpCase>& cases) {
  for (const OpCase& c : cases)
    for (const Pass pass : {Pass::forward, Pass::forward_and_backward}) {
      const std::string name = concat("cpu/", c.name, pass == Pass::forward ? "/forward" : "/forward and backward");
      benchmark::RegisterBenchmark(name.c_str(),
                                   [&ctx, &c, pass](benchmark::State& state) { run(state, ctx, c, pass); })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
}

}  // namespace
}  // namespace cbq::bench

int main(int argc, char** argv) {
  using namespace cbq;
  cpu::prepare_libraries(argv);
  const std::unique_ptr<Context> host = cpu::open(), gpu = bench::open_gpu();
  std::optional<bench::GpuRows> rows;
  if (gpu) {
    rows.emplace(*gpu);
    rows->add_limits();
    bench::add_memory_rows(*rows);
    bench::add_weight_rows(*rows);
    bench::add_product_rows(*rows);
  }
  const std::vector<test::OpCase> cases = test::model_cases(bench::kTokens);
  bench::add_cpu_rows(*host, cases);
  benchmark::AddCustomContext("cpu", host->name);
  return bench::run_benchmarks(argc, argv);
}
