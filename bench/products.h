// Shapes of a model with random numbers in place of its weights, and the matrix products of one of its blocks.
#pragma once

#include <vector>

#include "bench/operands.h"
#include "models/model.h"

namespace cbq::bench {

// Standard deviations of random weights and gradients; that of activations is 1.
constexpr double kWeightDeviation = 0.02, kGradientDeviation = 1e-3;

struct Shapes {
  const char* name;
  std::int64_t hidden, ffn, heads, kv_heads, head_dim, layers, tokens;

  ModelConfig config() const;  // of the LLaMA family, with a small vocabulary
};

struct Setup {
  Context& ctx;
  Normal& normal;
  Shapes shapes;
  DType compute;

  Tensor random(Shape shape, double deviation) const { return normal.tensor(shape, compute, deviation); }
};

// What products multiply: random numbers, or such on 4-bit grids, as integers where the device prefers that.
enum class Numbers { real, on_grid };

// y = x w^T, and in training dx = dy w and dw = dy^T x, `times` each; y is a product of integers where x and w have
// them. Outputs are not inputs: a product that took its
// own result would soon multiply infinities, for which a GPU needs less power and runs faster.
struct Product {
  Var x, w;
  Tensor dy, y, dx, dw;
  std::int64_t times = 1;

  Product(const Setup& setup, Numbers numbers, std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t times);
  void forward(Context& ctx) const;
  void backward(Context& ctx) const;
};

// The products of one block. Attention's are scores = q k^T and o^T = v^T p^T, with the backward of both and the scores
// once more. Products of equal shapes share their tensors.
struct BlockProducts {
  std::vector<Product> linear, attention;

  // numbers: of the linear layers.
  BlockProducts(const Setup& setup, const ModelConfig& config, Numbers numbers);
  void linear_step(Context& ctx) const;
  void attention_step(Context& ctx) const;
};

// Floating-point operations of one forward of a block: linear layers, and causal attention.
struct Flops {
  double linear, attention;
};
Flops forward_flops(const Shapes& shapes, const ModelConfig& config);

}  // namespace cbq::bench
