#include "quant/time_plan.h"

#include <algorithm>
#include <chrono>

#include "core/kernels.h"
#include "quant/reconstruct.h"

namespace cbq {
namespace {

// Share of the product's speed that whole steps reach, and the least time of one: some hundred small kernels
// (docs/kernels.md, `bench/window`).
constexpr double kShare = 0.75, kLeastStepOnGpu = 1e-3;
// Rows, inputs and outputs of the product whose speed is measured, at least: on a GPU a small one is all launch.
constexpr std::int64_t kLeastSide = 1, kLeastSideOnGpu = 4096;

struct BlockFlops {
  double linear, attention;  // of one forward of one sample
};

BlockFlops block_flops(const ModelConfig& model, double tokens) {
  double weights = 0;
  for (const LinearRole role : linear_roles(model.family)) weights += double(weight_shape(model, role).count());
  return {2 * weights * tokens, 2 * tokens * tokens * double(model.heads * model.head_dim)};
}

// Of GPTQ on one block, a sample: a forward and a Hessian for each site.
double gptq_flops(const RunConfig& config, const ModelConfig& model, double forward) {
  double flops = 0;
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
    const double in = double(weight_shape(model, linear_roles(model.family, site)[0])[1]);
    flops += forward + 2 * double(config.seqlen) * in * in;
  }
  return flops;
}

double product_seconds(Context& ctx, std::int64_t rows, std::int64_t in, std::int64_t out, DType dtype) {
  const Tensor x = full(ctx, {rows, in}, dtype, 0.5), w = full(ctx, {out, in}, dtype, 0.5), y(ctx, {rows, out}, dtype);
  double least = 1e30;
  for (int i = 0; i < 3; ++i) {
    ctx.synchronize();
    const auto start = std::chrono::steady_clock::now();
    ctx.kernels->matmul(ctx, y, x, Trans::no, w, Trans::yes, {}, {});
    ctx.synchronize();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return least;
}

std::int64_t steps_of_window(const RunConfig& config) {
  return config.epochs * ((config.nsamples + config.batch_size - 1) / config.batch_size);
}

}  // namespace

double reconstruction_flops(const RunConfig& config, const ModelConfig& model, std::int64_t calibration_samples) {
  const BlockFlops block = block_flops(model, double(config.seqlen));
  const double forward = block.linear + block.attention;
  double flops = 2 * double(model.layers) * double(calibration_samples) * forward;
  if (rounding_options(config).rounding_start == RoundingStart::gptq)
    flops += double(model.layers) *
             (double(calibration_samples) * forward + double(config.nsamples) * gptq_flops(config, model, forward));
  if (config.method != Method::cbq) return flops;
  for (const Window& window : plan_windows(config, model.layers)) {
    const double blocks = double(window.end - window.begin);
    flops += blocks * double(config.epochs * config.nsamples) * (3 * block.linear + 3.5 * block.attention);
    if (config.homologous) flops += blocks * double(calibration_samples) * forward;
  }
  return flops;
}

double evaluation_flops(const ModelConfig& model, std::int64_t windows, std::int64_t tokens_of_window) {
  constexpr double kModels = 3, kLogits = 5;  // the reference's logits are made again beside each of the other two
  const BlockFlops block = block_flops(model, double(tokens_of_window));
  const double logits = 2 * double(tokens_of_window) * double(model.vocab) * double(model.embed_dim);
  return double(windows) * (kModels * double(model.layers) * (block.linear + block.attention) + kLogits * logits);
}

TimePlan plan_time(Context& ctx, const RunConfig& config, const ModelConfig& model, std::int64_t calibration_samples) {
  if (config.method != Method::cbq) return {};
  const std::int64_t least_side = ctx.device == Device::cuda ? kLeastSideOnGpu : kLeastSide;
  const std::int64_t rows = std::max(least_side, config.batch_size * config.seqlen),
                     in = std::max(least_side, model.hidden), out = std::max(least_side, model.ffn);
  const double product = product_seconds(ctx, rows, in, out, compute_dtype(config.precision, ctx.device));
  const double rate = 2 * double(rows) * double(in) * double(out) / product;
  const double floor = reconstruction_flops(config, model, calibration_samples) / rate;
  const double least =
      ctx.device == Device::cuda
          ? kLeastStepOnGpu * double(plan_windows(config, model.layers).size()) * double(steps_of_window(config))
          : 0;
  return {rate, floor, std::max(least, floor / kShare)};
}

}  // namespace cbq
