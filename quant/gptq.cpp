#include "quant/gptq.h"

#include <algorithm>
#include <numeric>

#include "core/kernels.h"

namespace cbq {
namespace {

constexpr int kDampingTries = 6;

// 2/n sum x x^T over all rows that reach `site` in the samples.
Tensor hessian(Context& ctx, const ModelConfig& config, QuantBlock& block, Site site, const Stream& inputs,
               std::int64_t samples, const Sequence& sequence) {
  Tensor h;
  std::int64_t rows = 0;
  block.observer = [&](Site at, const Tensor& x) {
    if (at != site) return;
    if (!h) h = full(ctx, {x.cols(), x.cols()}, statistics_dtype(x.dtype()), 0);
    ctx.kernels->matmul(ctx, h, x, Trans::yes, x, Trans::no, {}, h);
    rows += x.rows();
  };
  for (std::int64_t i = 0; i < samples; ++i) block_forward(ctx, config, block, inputs.load(ctx, i), sequence);
  block.observer = nullptr;
  Tensor scaled(ctx, h.shape(), h.dtype());
  ctx.kernels->scale(ctx, scaled, h, 2.0 / double(rows));
  return scaled;
}

// The columns in the order they are quantised.
std::vector<std::int32_t> column_order(const std::vector<float>& h, std::int64_t n, const GptqOptions& options) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto diagonal = [&](std::int32_t j) { return h[std::size_t(j) * std::size_t(n + 1)]; };
  if (options.act_order)
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t a, std::int32_t b) { return diagonal(a) > diagonal(b); });
  return order;
}

// u of kernels.h for the damped h with rows and columns in `order`. The damping grows while h is not positive definite.
Tensor inverse_factor(Context& ctx, const std::vector<float>& h, const std::vector<std::int32_t>& order, DType dtype,
                      const GptqOptions& options) {
  const std::size_t n = order.size();
  double mean = 0;
  for (std::size_t j = 0; j < n; ++j) mean += h[j * (n + 1)] / double(n);
  std::vector<float> permuted(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) permuted[i * n + j] = h[std::size_t(order[i]) * n + std::size_t(order[j])];
  double damping = options.damping * (mean > 0 ? mean : 1), added = 0;
  Tensor u(ctx, {std::int64_t(n), std::int64_t(n)}, dtype);
  for (int attempt = 1;; ++attempt, damping *= 10) {
    for (std::size_t j = 0; j < n; ++j) permuted[j * (n + 1)] += float(damping - added);
    added = damping;
    try {
      ctx.kernels->cholesky_of_inverse(ctx, u, from_host<float>(ctx, u.shape(), dtype, permuted));
      return u;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::failure || attempt == kDampingTries) throw;
    }
  }
}

void start_block(Context& ctx, const ModelConfig& config, QuantBlock& block, const Stream& inputs, std::int64_t samples,
                 const Sequence& sequence, const GptqOptions& options) {
  block.use(nullptr, Hardness::hard);
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
    const auto roles = linear_roles(config.family, site);
    if (std::none_of(roles.begin(), roles.end(), [&](LinearRole role) { return block.rounding(role) != nullptr; }))
      continue;
    const DType grid_dtype = statistics_dtype(block.weights()[roles[0]].weight.value.dtype());
    const std::vector<float> h = to_host<float>(ctx, hessian(ctx, config, block, site, inputs, samples, sequence));
    const std::vector<std::int32_t> order = column_order(h, weight_shape(config, roles[0])[1], options);
    const Tensor u = inverse_factor(ctx, h, order, grid_dtype, options);
    const Tensor device_order = from_host<std::int32_t>(ctx, {std::int64_t(order.size())}, DType::i32, order);
    for (const LinearRole role : roles) {
      const WeightRounding* rounding = block.rounding(role);
      if (!rounding) continue;
      const HardWeight hard = rounding->harden(ctx, config.dtype);  // for its grid
      const Tensor& w = block.weights()[role].weight.value;
      Tensor compensated(ctx, w.shape(), w.dtype());
      ctx.kernels->gptq_weights(ctx, compensated, w, hard.grid(), u, device_order);
      block.start_from_gptq(ctx, role, std::move(compensated));
    }
  }
}

}  // namespace

void start_from_gptq(Context& ctx, const ModelConfig& config, std::span<QuantBlock* const> window, std::size_t first,
                     const Stream& inputs, std::int64_t samples, const GptqOptions& options) {
  if (first >= window.size()) return;
  const Tensor x = inputs.load(ctx, 0);
  const Sequence sequence = make_sequence(ctx, config, 1, 0, x.rows(), x.dtype());
  Stream passed;  // the inputs behind the blocks so far
  for (std::size_t i = 0; i < window.size(); ++i) {
    if (i >= first) start_block(ctx, config, *window[i], i == 0 ? inputs : passed, samples, sequence, options);
    if (i + 1 == window.size()) return;
    if (i == 0) passed = inputs.copy(ctx);
    window[i]->use(nullptr, Hardness::hard);
    advance(ctx, config, *window[i], sequence, passed);
  }
}

}  // namespace cbq
