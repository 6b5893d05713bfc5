#include "bench/products.h"

#include <map>

#include "core/kernels.h"

namespace cbq::bench {

ModelConfig Shapes::config() const {
  ModelConfig c{};
  c.family = Family::llama;
  c.layers = layers, c.hidden = hidden, c.ffn = ffn, c.heads = heads, c.kv_heads = kv_heads;
  c.head_dim = head_dim, c.vocab = 4096, c.max_positions = tokens;
  c.norm_eps = 1e-5;
  c.activation = Activation::silu;
  c.dtype = DType::f16;
  return c;
}

namespace {

Var operand(const Setup& setup, Numbers numbers, Shape shape, double deviation) {
  const Tensor x = setup.random(shape, deviation);
  return numbers == Numbers::on_grid ? quantised(setup.ctx, x) : Var(x);
}

}  // namespace

Product::Product(const Setup& setup, Numbers numbers, std::int64_t m, std::int64_t n, std::int64_t k,
                 std::int64_t times_)
    : x(operand(setup, numbers, {m, k}, 1)),
      w(operand(setup, numbers, {n, k}, kWeightDeviation)),
      dy(setup.random({m, n}, kGradientDeviation)),
      y(setup.ctx, {m, n}, setup.compute),
      dx(setup.ctx, {m, k}, setup.compute),
      dw(setup.ctx, {n, k}, setup.compute),
      times(times_) {
  if (!setup.ctx.prefers_integers(setup.compute, x.shape(), w.shape())) x.integers = w.integers = {};
}

void Product::forward(Context& ctx) const {
  for (std::int64_t i = 0; i < times; ++i)
    if (x.integers && w.integers)
      ctx.kernels->matmul_integers(ctx, y, x.integers.views(), w.integers.views(), {}, {});
    else
      ctx.kernels->matmul(ctx, y, x.value, Trans::no, w.value, Trans::yes, {}, {});
}

void Product::backward(Context& ctx) const {
  for (std::int64_t i = 0; i < times; ++i) {
    ctx.kernels->matmul(ctx, dx, dy, Trans::no, w.value, Trans::no, {}, {});
    ctx.kernels->matmul(ctx, dw, dy, Trans::yes, x.value, Trans::no, {}, {});
  }
}

BlockProducts::BlockProducts(const Setup& setup, const ModelConfig& config, Numbers numbers) {
  const std::int64_t tokens = setup.shapes.tokens;
  std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> shapes;
  for (const LinearRole role : linear_roles(config.family)) {
    const Shape w = weight_shape(config, role);
    ++shapes[{w[0], w[1]}];
  }
  for (const auto& [w, times] : shapes) linear.emplace_back(setup, numbers, tokens, w.first, w.second, times);
  attention.emplace_back(setup, Numbers::real, tokens, tokens / 2, config.head_dim, config.heads);
  attention.emplace_back(setup, Numbers::real, config.head_dim, tokens, tokens / 2, config.heads);
}

void BlockProducts::linear_step(Context& ctx) const {
  for (const Product& p : linear) p.forward(ctx), p.backward(ctx);
}

void BlockProducts::attention_step(Context& ctx) const {
  for (const Product& p : attention) p.forward(ctx), p.backward(ctx);
  attention[0].forward(ctx);
}

Flops forward_flops(const Shapes& s, const ModelConfig& config) {
  double weights = 0;
  for (const LinearRole role : linear_roles(config.family)) weights += double(weight_shape(config, role).count());
  return {2 * weights * double(s.tokens), 2 * double(s.tokens * s.tokens) * double(s.heads * s.head_dim)};
}

}  // namespace cbq::bench
