// Weight quantisers of a window of two LLaMA-65B blocks, 1.62 G weights in bf16: W4, a step a channel, low-rank offset.
#include "autograd/ops.h"
#include "bench/ops_gpu.h"
#include "core/kernels.h"

namespace cbq::bench {
namespace {

constexpr std::int64_t kRank = 5, kBlocks = 2;
constexpr int kBits = 4;
constexpr double kDeviation = 0.02;  // of the weights, whose range of 3 deviations the grid covers

struct Layer {
  Tensor w, scale, zero, a1, a2;

  Layer(Operands& o, const Shape& shape)
      : w(o.input(shape, DType::bf16, kDeviation)),
        scale(o.constant({shape[0], 1}, 6 * kDeviation / 15)),
        zero(o.constant({shape[0], 1}, 8)),
        a1(o.input({shape[0], kRank}, DType::f32, 0.1)),
        a2(o.input({kRank, shape[1]}, DType::f32, 0.1)) {}
  WeightQuantiser quantiser(Rounder rounder, View regulariser = {}) const {
    return {w, {scale, zero, kBits}, rounder, {{}, a1, a2}, {}, regulariser};
  }
};

struct Gradients {
  Tensor scale, a1, a2;

  Gradients(Operands& o, const Layer& of)
      : scale(o.output(of.scale.shape(), DType::f32)),
        a1(o.output(of.a1.shape(), DType::f32)),
        a2(o.output(of.a2.shape(), DType::f32)) {}
};

template <class Fn>
void for_each_layer(const Fn& fn) {
  for (std::int64_t i = 0; i < kBlocks; ++i)
    for (const Shape& shape : weights_65b()) fn(shape);
}

Call forward(Operands& o, Rounder rounder, ops::Form form) {
  std::vector<Layer> layers;
  std::vector<Tensor> w_hat, integers;
  for_each_layer([&](const Shape& shape) {
    layers.emplace_back(o, shape);
    w_hat.push_back(o.output(shape));
    integers.push_back(form == ops::Form::with_integers ? o.output(shape, DType::f8) : Tensor());
  });
  return [=, &ctx = o.ctx] {
    for (std::size_t i = 0; i < layers.size(); ++i)
      ctx.kernels->quantise_weight_forward(ctx, w_hat[i], integers[i], layers[i].quantiser(rounder));
  };
}

enum class Regularised { no, yes };

Call backward(Operands& o, Rounder rounder, Regularised regularised) {
  const Tensor regulariser = regularised == Regularised::yes ? o.constant({2}, 2) : Tensor();
  std::vector<Layer> layers;
  std::vector<Tensor> dw_hat;
  std::vector<Gradients> gradients;
  for_each_layer([&](const Shape& shape) {
    layers.emplace_back(o, shape);
    dw_hat.push_back(o.input(shape));
    gradients.emplace_back(o, layers.back());
  });
  return [=, &ctx = o.ctx] {
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const Gradients& g = gradients[i];
      ctx.kernels->quantise_weight_backward(ctx, {{}, g.scale, {}, {}, g.a1, g.a2}, dw_hat[i],
                                            layers[i].quantiser(rounder, regulariser));
    }
  };
}

}  // namespace

void add_weight_rows(GpuRows& rows) {
  for (const auto& [name, rounder] :
       {std::pair{"straight_through", Rounder::straight_through}, {"sigmoid", Rounder::sigmoid}}) {
    rows.add(concat("gpu/weights of two blocks/", name, "/forward"), 0,
             [rounder = rounder](Operands& o) { return forward(o, rounder, ops::Form::values); });
    rows.add(concat("gpu/weights of two blocks/", name, "/backward"), 0,
             [rounder = rounder](Operands& o) { return backward(o, rounder, Regularised::no); });
  }
  rows.add("gpu/weights of two blocks/sigmoid/backward with regulariser", 0,
           [](Operands& o) { return backward(o, Rounder::sigmoid, Regularised::yes); });
  rows.add("gpu/weights of two blocks/straight_through/forward with integers", 0,
           [](Operands& o) { return forward(o, Rounder::straight_through, ops::Form::with_integers); });
}

}  // namespace cbq::bench
