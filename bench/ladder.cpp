// The ladders of bench/ladder/: each kernel from its plainest version to the one in cuda/, rung after rung, at the
// shapes of LLaMA-65B.
#include <cmath>
#include <cstdio>

#include "bench/gpu.h"
#include "bench/ladder/ladder.h"
#include "bench/ops_gpu.h"
#include "bench/table.h"
#include "cpu/libraries.h"

namespace cbq::bench {
namespace {

// The rungs, and on top the backend's own kernel.
template <class Kernel, std::size_t kCount>
std::vector<ladder::Rung<Kernel>> with_top(const ladder::Rung<Kernel> (&rungs)[kCount], Kernel top) {
  std::vector<ladder::Rung<Kernel>> all(rungs, rungs + kCount);
  all.push_back({"the kernel in cuda/", top});
  return all;
}

void add_rms_norm(GpuRows& rows) {
  for (const auto& rung : with_top(ladder::kRmsNorm, rows.ctx.kernels->rms_norm_forward))
    rows.add(concat("rms_norm/", rung.name), 0, [run = rung.run](Operands& o) -> Call {
      const Shape shape{kTokens65B, kHidden65B};
      const Tensor y = o.output(shape), rstd = o.output({shape[0]}, DType::f32), x = o.input(shape);
      const Tensor w = o.input({shape[1]});
      return [=, &ctx = o.ctx] { run(ctx, y, rstd, x, w, 1e-5); };
    });
}

// The weight of one gate or up projection, W4, a step a channel, offset of rank 5.
void add_weight(GpuRows& rows) {
  const ladder::WeightKernel top = [](Context& ctx, View w_hat, const WeightQuantiser& quantiser) {
    ctx.kernels->quantise_weight_forward(ctx, w_hat, {}, quantiser);
  };
  for (const auto& rung : with_top(ladder::kWeight, top))
    rows.add(concat("weight/", rung.name), 0, [run = rung.run](Operands& o) -> Call {
      const Shape shape{kFfn65B, kHidden65B};
      const Tensor w_hat = o.output(shape), w = o.input(shape, DType::bf16, 0.02);
      const Tensor scale = o.constant({shape[0], 1}, 0.008), zero = o.constant({shape[0], 1}, 8);
      const Tensor a1 = o.input({shape[0], 5}, DType::f32, 0.1), a2 = o.input({5, shape[1]}, DType::f32, 0.1);
      return [=, &ctx = o.ctx] { run(ctx, w_hat, {w, {scale, zero, 4}, Rounder::straight_through, {{}, a1, a2}}); };
    });
}

void add_attention(GpuRows& rows) {
  const double flops = 2.0 * kTokens65B * kTokens65B * kHeads65B * kHeadDim65B;  // two products, half of the scores
  for (const auto& rung : with_top(ladder::kAttention, rows.ctx.kernels->attention_forward))
    rows.add(concat("attention/", rung.name), flops, [run = rung.run](Operands& o) -> Call {
      const Shape shape{1, kTokens65B, kHeads65B, kHeadDim65B};
      const Tensor y = o.output(shape), lse = o.output({1, kHeads65B, kTokens65B}, DType::f32);
      const Tensor q = o.input(shape), k = o.input(shape), v = o.input(shape);
      return [=, &ctx = o.ctx] { run(ctx, y, lse, q, k, v, 1 / std::sqrt(double(kHeadDim65B))); };
    });
}

}  // namespace
}  // namespace cbq::bench

int main(int argc, char** argv) {
  using namespace cbq;
  cpu::prepare_libraries(argv);
  const std::unique_ptr<Context> gpu = bench::open_gpu();
  if (!gpu) return 0;
  bench::GpuRows rows(*gpu);
  rows.add_limits();
  bench::add_rms_norm(rows);
  bench::add_weight(rows);
  bench::add_attention(rows);
  return bench::run_benchmarks(argc, argv);
}
