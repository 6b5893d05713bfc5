// Kernels that tensor cores bound: attention, and the products of a linear layer's forward and backward.
#include <cmath>

#include "bench/ops_gpu.h"
#include "core/kernels.h"

namespace cbq::bench {
namespace {

constexpr std::int64_t kT = kTokens65B, kD = kHeadDim65B;

struct Attention {
  Tensor q, k, v;
  double scale = 1 / std::sqrt(double(kD));

  Attention(Operands& o, std::int64_t heads)
      : q(o.input({1, kT, heads, kD})), k(o.input({1, kT, heads, kD})), v(o.input({1, kT, heads, kD})) {}
};

Call attention_forward(Operands& o, std::int64_t heads) {
  const Attention a(o, heads);
  const Tensor y = o.output(a.q.shape()), lse = o.output({1, heads, kT}, DType::f32);
  return [=, &ctx = o.ctx] { ctx.kernels->attention_forward(ctx, y, lse, a.q, a.k, a.v, a.scale); };
}

Call attention_backward(Operands& o, std::int64_t heads) {
  const Attention a(o, heads);
  const Tensor y = o.output(a.q.shape()), lse = o.output({1, heads, kT}, DType::f32);  // inputs, once made below
  const Tensor dy = o.input(a.q.shape()), dq = o.output(a.q.shape()), dk = o.output(a.q.shape());
  const Tensor dv = o.output(a.q.shape());
  o.ctx.kernels->attention_forward(o.ctx, y, lse, a.q, a.k, a.v, a.scale);
  return [=, &ctx = o.ctx] { ctx.kernels->attention_backward(ctx, dq, dk, dv, dy, a.q, a.k, a.v, y, lse, a.scale); };
}

// Causal: half of the scores. Two products forward; five backward, the scores computed again.
void add_attention(GpuRows& rows, std::int64_t heads) {
  const double product = double(kT * kT * kD * heads);
  const std::string name = concat("gpu/attention, ", heads, " heads/");
  rows.add(name + "forward", 2 * product, [heads](Operands& o) { return attention_forward(o, heads); });
  rows.add(name + "backward", 5 * product, [heads](Operands& o) { return attention_backward(o, heads); });
  rows.add(name + "forward and backward", 7 * product, [heads](Operands& o) -> Call {
    const Call first = attention_forward(o, heads), second = attention_backward(o, heads);
    return [=] { first(), second(); };
  });
}

enum class Pass { forward, integers, dx, dw };
constexpr std::pair<const char*, Pass> kPasses[] = {
    {"forward", Pass::forward}, {"forward, integers", Pass::integers}, {"dx", Pass::dx}, {"dw", Pass::dw}};

// y = x w^T of integers.
Call product_of_integers(Operands& o, const Shape& weight) {
  const IntegerTensors x = o.integers({kT, weight[1]}), w = o.integers(weight);
  const Tensor y = o.output({kT, weight[0]});
  return [=, &ctx = o.ctx] { ctx.kernels->matmul_integers(ctx, y, x.views(), w.views(), {}, {}); };
}

// y = x w^T, dx = dy w, dw = dy^T x.
Call product(Operands& o, const Shape& weight, Pass pass) {
  if (pass == Pass::integers) return product_of_integers(o, weight);
  const Shape of_x{kT, weight[1]}, of_y{kT, weight[0]};
  const auto tensor = [&](const Shape& shape, Pass written_by) {
    return pass == written_by ? o.output(shape) : o.input(shape);
  };
  const Tensor x = tensor(of_x, Pass::dx), w = tensor(weight, Pass::dw), y = tensor(of_y, Pass::forward);
  return [=, &ctx = o.ctx] {
    const auto matmul = ctx.kernels->matmul;
    if (pass == Pass::forward) matmul(ctx, y, x, Trans::no, w, Trans::yes, {}, {});
    if (pass == Pass::dx) matmul(ctx, x, y, Trans::no, w, Trans::no, {}, {});
    if (pass == Pass::dw) matmul(ctx, w, y, Trans::yes, x, Trans::no, {}, {});
  };
}

void add_products(GpuRows& rows) {
  const std::vector<Shape> weights = weights_65b();
  double flops = 0;
  for (const Shape& weight : weights) flops += 2.0 * double(kT * weight.count());
  for (const std::size_t i : {0, 4, 6})
    for (const auto& [name, pass] : kPasses)
      rows.add(concat("gpu/linear ", weights[i][1], " to ", weights[i][0], "/", name),
               2.0 * double(kT * weights[i].count()),
               [weight = weights[i], pass = pass](Operands& o) { return product(o, weight, pass); });
  for (const auto& [name, forward] : {std::pair{"all", Pass::forward}, {"all, W4A4", Pass::integers}})
    rows.add(concat("gpu/linear layers of a block/", name), 3 * flops, [=, forward = forward](Operands& o) -> Call {
      std::vector<Call> calls;
      for (const Shape& weight : weights)
        for (const Pass pass : {forward, Pass::dx, Pass::dw}) calls.push_back(product(o, weight, pass));
      return [=] {
        for (const Call& call : calls) call();
      };
    });
}

}  // namespace

void add_product_rows(GpuRows& rows) {
  for (const std::int64_t heads : {kHeads65B, kHeads65B / 2}) add_attention(rows, heads);
  add_products(rows);
}

}  // namespace cbq::bench
