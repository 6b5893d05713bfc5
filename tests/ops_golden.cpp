// Definitions: small inputs with results that our code did not make. Long decimals come from numpy 2.4 in float64,
// written from the formula in the cited paper; short ones were computed by hand. A gradient check cannot see a wrong
// definition, so epsilon is large here and every convention (biased variance, ties to even, direction of rotation)
// shows.
#include "core/kernels.h"
#include "tests/check.h"

namespace cbq::test {
namespace {

std::string dtype_name(const testing::TestParamInfo<DType>& dtype) {
  return name(dtype.param);
}

class Golden : public testing::TestWithParam<DType> {
 protected:
  Tensor tensor(Shape shape, Values values) { return from_host<double>(ctx_, shape, GetParam(), values); }
  void expect(const Var& y, Values expected) {
    expect_close(to_host<double>(ctx_, y.value), expected, GetParam() == DType::f64 ? 1e-13 : 1e-6, "golden value");
  }
  // Two rows that several ops share.
  Tensor x() { return tensor({2, 4}, {0.5, -1.25, 2, 0.75, 1.5, 0.25, -0.5, -3}); }
  Tensor w() { return tensor({4}, {1, -0.5, 2, 0.25}); }

  std::unique_ptr<Context> owner_ = open_cpu();
  Context& ctx_ = *owner_;
};
INSTANTIATE_TEST_SUITE_P(DTypes, Golden, testing::Values(DType::f64, DType::f32), dtype_name);

TEST_P(Golden, RmsNorm) {
  expect(ops::rms_norm(ctx_, x(), w(), 0.5),
         {0.34554737023254406, 0.43193421279068006, 2.7643789618603525, 0.12958026383720403, 0.8146130799625568,
          -0.06788442333021306, -0.5430753866417045, -0.4073065399812784});
}

TEST_P(Golden, LayerNorm) {
  expect(ops::layer_norm(ctx_, x(), w(), tensor({4}, {0.1, 0.2, -0.3, 0.4}), 0.5),
         {0.1, 0.8444022325288263, 1.909379082955976, 0.4460287308949162, 1.183227664612649, 0.007814446600981656,
          -0.3698856557814612, 0.041836014120011256});
}

// Positions 1 and 3, two heads of four, base 10000. Computed as (x_i + i x_{i+D/2}) e^{i angle}.
TEST_P(Golden, Rope) {
  Values values;
  for (int i = 1; i <= 16; ++i) values.push_back(i / 4.0);
  const Tensor cos = tensor({2, 2}, {0.5403023058681398, 0.9999500004166653, -0.9899924966004454, 0.9995500337489875});
  const Tensor sin =
      tensor({2, 2}, {0.8414709848078965, 0.009999833334166664, 0.1411200080598672, 0.02999550020249566});
  expect(ops::rope(ctx_, tensor({2, 8}, values), cos, sin, 1, 2),
         {-0.4960276621388874, 0.489975166874166, 0.6155944756030789, 1.0049499170837486, -0.7971963410786441,
          1.4799253339566645, 1.9973677662791152, 2.0148997508345805, -2.615563139515637, 2.408888583764982,
          -2.4049593475165234, 3.0736388517532016, -3.7466756441759497, 3.3784431173114737, -3.253831836057102,
          4.103184385704685});
}

// Two queries, three keys, two heads on one key head, D = 2: query i sees keys 0 .. 1 + i.
TEST_P(Golden, Attention) {
  const Tensor q = tensor({2, 4}, {1, 0.5, -0.5, 2, 0.25, -1, 1.5, 1}),
               k = tensor({3, 2}, {0.5, -1, 1, 0.25, -0.75, 1.5});
  const Tensor v = tensor({3, 2}, {1, 2, -3, 0.5, 4, -1});
  expect(ops::attention(ctx_, q, k, v, {1, 2, 1}),
         {-1.7560400869613413, 0.9664849673894971, -2.3230215190835195, 0.75386693034368, 0.12177058142189884,
          1.3151850472698863, -0.7672618919821889, 0.3750051412531784});
}

TEST_P(Golden, Activations) {
  const Tensor a = tensor({6}, {-3, -1, -0.25, 0, 0.5, 2});
  expect(ops::activation(ctx_, a, Activation::relu), {0, 0, 0, 0, 0.5, 2});
  expect(ops::activation(ctx_, a, Activation::silu),
         {-0.14227761953270035, -0.2689414213699951, -0.10945587477855048, 0, 0.3112296656009273, 1.7615941559557646});
  expect(ops::activation(ctx_, a, Activation::gelu), {-0.00404969409489031, -0.15865525393145707, -0.10032341857926907,
                                                      0, 0.34573123063700656, 1.9544997361036416});
  expect(ops::activation(ctx_, a, Activation::gelu_tanh),
         {-0.0036373920817729943, -0.15880800939172324, -0.100324649298315, 0, 0.34571400982514394, 1.954597694087775});
  expect(ops::gated(ctx_, a, tensor({6}, {2, -1, 0.5, 3, -2, 1.5})),
         {-0.2845552390654007, 0.2689414213699951, -0.05472793738927524, 0, -0.6224593312018546, 2.642391233933647});
}

TEST_P(Golden, Softmax) {
  expect(ops::softmax(ctx_, x()), {0.14410284129998482, 0.025041318995112027, 0.6458241288588027, 0.18503171084610048,
                                   0.6978615055520833, 0.19994066888474604, 0.09444528451382016, 0.007752541049350658});
  // Large logits: the row maximum must be taken off first.
  expect(ops::softmax(ctx_, tensor({1, 3}, {1000, 1000, -1000})), {0.5, 0.5, 0});
}

TEST_P(Golden, Losses) {
  const Tensor other = tensor({2, 4}, {1, 0, -1, 0.5, 0.25, 2, 1, -2});
  expect(ops::kl_divergence(ctx_, x(), other), {1.0738290256723277});
  expect(ops::mse(ctx_, x(), other), {2.34375});
  const auto targets = [&](std::vector<std::int32_t> ids) {
    return from_host<std::int32_t>(ctx_, {2}, DType::i32, ids);
  };
  expect(ops::cross_entropy(ctx_, x(), targets({2, 3})), {2.648481335317621});
  expect(ops::cross_entropy(ctx_, x(), targets({2, -1})), {0.21861402930695126});  // over two rows, the second 0
}

TEST_P(Golden, Elementwise) {
  const Tensor base = tensor({4}, {2, 0.5, 3, -1}), e = tensor({4}, {0.5, -1, 0, 0.25});
  expect(ops::scaled_exp(ctx_, base, e), {3.2974425414002564, 0.18393972058572117, 3, -1.2840254166877414});
  expect(ops::add(ctx_, base, e), {2.5, -0.5, 3, -0.75});
  expect(ops::mul(ctx_, base, e), {1, -0.5, 0, -0.25});
  expect(ops::scale(ctx_, base, -2), {-4, -1, -6, 2});
  expect(ops::mean(ctx_, x()), {0.03125});
}

TEST_P(Golden, Matmul) {
  const Tensor a = tensor({2, 3}, {1, 2, 3, 4, 5, 6}), b = tensor({3, 2}, {1, 0, -1, 2, 0.5, 1}),
               bias = tensor({2}, {10, 20});
  const Tensor at = tensor({3, 2}, {1, 4, 2, 5, 3, 6}), bt = tensor({2, 3}, {1, -1, 0.5, 0, 2, 1});
  const Values product = {0.5, 7, 2, 16}, biased = {10.5, 27, 12, 36};
  expect(ops::matmul(ctx_, a, Trans::no, b, Trans::no), product);
  expect(ops::matmul(ctx_, at, Trans::yes, b, Trans::no), product);
  expect(ops::matmul(ctx_, a, Trans::no, bt, Trans::yes), product);
  expect(ops::matmul(ctx_, at, Trans::yes, bt, Trans::yes), product);
  expect(ops::linear(ctx_, a, bt, bias), biased);
}

TEST_P(Golden, Embedding) {
  const std::vector<std::int32_t> ids = {2, 0, 2};
  expect(ops::embedding(ctx_, tensor({3, 2}, {1, 2, 3, 4, 5, 6}), from_host<std::int32_t>(ctx_, {3}, DType::i32, ids)),
         {5, 6, 1, 2, 5, 6});
}

// Symmetric, 4 bits: the largest magnitude a gives s = a / 7.5, values -8s .. 7s, ties to even. Row 2 has s = 0.5.
TEST_P(Golden, FakeQuantSymmetric) {
  const Tensor rows =
      tensor({3, 6}, {7.5, -7.5, 1.2, -0.4, 2.5, 3.49, -3.75, 1, 0.3, 3, -0.26, 0.74, 0, 0, 0, 0, 0, 0});
  expect(ops::fake_quant(ctx_, rows, {tensor({1}, {1}), 4, Symmetry::symmetric}),
         {7, -8, 1, 0, 2, 3, -4, 1, 0.5, 3, -0.5, 0.5, 0, 0, 0, 0, 0, 0});
  const Tensor first = tensor({1, 6}, {7.5, -7.5, 1.2, -0.4, 2.5, 3.49});  // half the range: s = 0.5
  expect(ops::fake_quant(ctx_, first, {tensor({1}, {0.5}), 4, Symmetry::symmetric}), {3.5, -4, 1, -0.5, 2.5, 3.5});
}

// Asymmetric, 4 bits: rows of range (-1, 14), (0, 15), (-15, 0), all with s = 1 and z = 1, 0, 15. The range includes 0.
TEST_P(Golden, FakeQuantAsymmetric) {
  const Tensor rows = tensor(
      {4, 6}, {-1, 2, 0.5, 14, 6.5, 0.1, 3, 7.5, 15, 0.6, 1.5, 2.5, -15, -1, -2.5, -0.4, -7, -3.6, 0, 0, 0, 0, 0, 0});
  expect(ops::fake_quant(ctx_, rows, {tensor({1}, {1}), 4, Symmetry::asymmetric}),
         {-1, 2, 0, 14, 6, 0, 3, 8, 15, 1, 2, 2, -15, -1, -2, 0, -7, -4, 0, 0, 0, 0, 0, 0});
}

class GoldenRounder : public Golden {
 protected:
  // s = 0.5, z = 2, 3 bits: codes 0 .. 7, values -1 .. 2.5; w/s = 0.6, -1.6, 2.5, 20, -6, 0.2.
  ops::WeightQuantiserVars quantiser(Rounder rounder) {
    return {tensor({1, 6}, {0.3, -0.8, 1.25, 10, -3, 0.1}),
            tensor({1, 1}, {0.5}),
            tensor({1, 1}, {2}),
            3,
            rounder,
            {},
            {},
            {}};
  }
};
INSTANTIATE_TEST_SUITE_P(DTypes, GoldenRounder, testing::Values(DType::f64, DType::f32), dtype_name);

TEST_P(GoldenRounder, StraightThrough) {
  ops::WeightQuantiserVars q = quantiser(Rounder::straight_through);
  expect(ops::quantise_weight(ctx_, q), {0.5, -1, 1, 2.5, -1, 0});  // 2.5 goes to the even 2
  q.a1 = tensor({1, 2}, {1, -0.5});
  q.a2 = tensor({2, 6}, {0, 0.2, 0, 0, 0, 0.5, 0, 0, 0.2, 0, 0, 0});
  const Values expected = {0.5, -0.5, 1, 2.5, -1, 0.5};
  expect(ops::quantise_weight(ctx_, q), expected);
  q.a1 = q.a2 = Var();
  q.dense = tensor({1, 6}, {0, 0.2, -0.1, 0, 0, 0.5});
  expect(ops::quantise_weight(ctx_, q), expected);
}

TEST_P(GoldenRounder, Sigmoid) {
  ops::WeightQuantiserVars q = quantiser(Rounder::sigmoid);
  expect(ops::quantise_weight(ctx_, q), {0.3, -0.8, 1.25, 2.5, -1, 0.1});  // starts at w, as far as the grid reaches
  q.dense = tensor({1, 6}, {0.5, -1, 3, 0, 0, -4});
  expect(ops::quantise_weight(ctx_, q), {0.3686330250843519, -0.9251455220517721, 1.5, 2.5, -1, 0});
  q.rounder = Rounder::sigmoid_hard;
  expect(ops::quantise_weight(ctx_, q), {0.5, -1, 1.5, 2.5, -1, 0});
}

// lambda 1, beta 3, nothing else in the gradient; from differences of L_com in 60 digits. Quotients 20 and -6 stand
// where the clip of h begins, which counts as idle: 6 h' / 6, h' = 1.2 p (1 - p), p = 1/12.
TEST_P(GoldenRounder, Regulariser) {
  Tape tape(ctx_);
  ops::WeightQuantiserVars q = quantiser(Rounder::sigmoid);
  q.dense = tape.leaf(tensor({1, 6}, {0.5, -1, 3, 0, 0, -4}));
  q.regulariser = tensor({2}, {1, 3});
  tape.backward(ops::quantise_weight(ctx_, q), tensor({1, 6}, {0, 0, 0, 0, 0, 0}));
  expect(q.dense.slot->grad, {-0.05699039051051765, 0.0970571575027069, 0, 1.1 / 12, 1.1 / 12, 0});
}

// One grid for columns 0-2, another for 3-5: s = 0.5 and 0.25, z = 2 and 1.
TEST_P(GoldenRounder, Groups) {
  ops::WeightQuantiserVars q = quantiser(Rounder::straight_through);
  q.w = tensor({1, 6}, {0.3, -0.8, 1.25, 0.3, -0.8, 1.2});
  q.scale = tensor({1, 2}, {0.5, 0.25});
  q.zero = tensor({1, 2}, {2, 1});
  expect(ops::quantise_weight(ctx_, q), {0.5, -1, 1, 0.25, -0.25, 1.25});
}

// s0 = 0.1, z0 = 5, 4 bits: zmin = -5, zmax = 10. Clips (0.9, 0.8) give s = (8 + 4.5) 0.1 / 15 and z = round(5.4);
// (1.1, 0.5) give s = (5 + 5.5) 0.1 / 15 and z = round(7.857).
TEST_P(Golden, ClipGrid) {
  const Tensor s0 = tensor({1, 2}, {0.1, 0.1}), z0 = tensor({1, 2}, {5, 5});
  const Tensor low = tensor({1, 2}, {0.9, 1.1}), high = tensor({1, 2}, {0.8, 0.5});
  const ops::Grid asymmetric = ops::clip_grid(ctx_, s0, z0, low, high, 4, Symmetry::asymmetric);
  expect(asymmetric.scale, {0.1 * 12.5 / 15, 0.1 * 10.5 / 15});
  expect(asymmetric.zero, {5, 8});
  const ops::Grid symmetric = ops::clip_grid(ctx_, s0, z0, low, high, 4, Symmetry::symmetric);
  expect(symmetric.scale, {0.08, 0.05});
  expect(symmetric.zero, {5, 5});
}

// Three steps of AdamW, lr 0.1, beta 0.9 and 0.95, epsilon 0.01, weight decay 0.1.
TEST_P(Golden, AdamW) {
  const Tensor value = tensor({3}, {1, -2, 0.5}), m = tensor({3}, {0, 0, 0}), v = tensor({3}, {0, 0, 0});
  const Values gradients[] = {{0.5, -1, 2}, {-0.25, 0.5, 2}, {1, 0, -4}};
  const Values expected[] = {{0.8919607843137255, -1.8809900990099009, 0.39549751243781095},
                             {0.8568714318545205, -1.8356810523634075, 0.2920400497512438},
                             {0.7843806087716827, -1.796638191884288, 0.29656452530854965}};
  for (std::int64_t t = 0; t < 3; ++t) {
    const Tensor grad = tensor({3}, gradients[t]);
    const std::vector<AdamTensor> update = {{value, m, v, grad, {0.1, 0.9, 0.95, 0.01, 0.1, t + 1}}};
    ctx_.kernels->adamw_step(ctx_, update);
    expect(value, expected[t]);
  }
}

TEST_P(Golden, SignSgd) {
  const Tensor value = tensor({3}, {1, -2, 0.5}), grad = tensor({3}, {0.001, -5, 0});
  const std::vector<SignTensor> update = {{value, grad, 0.25}};
  ctx_.kernels->sign_sgd_step(ctx_, update);
  expect(value, {0.75, -1.75, 0.5});
}

}  // namespace
}  // namespace cbq::test
