// Quantised values as integers times a step a row: their format, what quantisers give, and the block that multiplies
// them.
#include "tests/integer_checks.h"

#include "core/kernels.h"
#include "cpu/open.h"
#include "quant/quant_block.h"

namespace cbq::test {
namespace {

TEST(EightBitFloats, AreTheFormat) {
  std::vector<double> numbers;  // of all codes below 0x7f, ascending
  for (int code = 0; code < 0x7f; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    const double expected = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    EXPECT_EQ(double(f8_to_f32(std::uint8_t(code))), expected) << code;
    EXPECT_EQ(double(f8_to_f32(std::uint8_t(code | 0x80))), -expected) << code;
    EXPECT_EQ(f32_to_f8(float(expected)), code);
    EXPECT_EQ(f32_to_f8(-float(expected)), code | 0x80);
    numbers.push_back(expected);
  }
  for (std::size_t i = 0; i + 1 < numbers.size(); ++i) {
    const float tie = float((numbers[i] + numbers[i + 1]) / 2);
    EXPECT_EQ(f32_to_f8(tie), i % 2 == 0 ? i : i + 1) << tie;
    EXPECT_EQ(f32_to_f8(std::nextafter(tie, 0.0f)), i) << tie;
    EXPECT_EQ(f32_to_f8(std::nextafter(tie, 1e9f)), i + 1) << tie;
  }
  for (float large : {449.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(f32_to_f8(large), 0x7e) << large;
    EXPECT_EQ(f32_to_f8(-large), 0xfe) << large;
  }
  EXPECT_TRUE(std::isnan(f8_to_f32(f32_to_f8(std::nanf("")))));
  for (int integer = -kLargestInteger; integer <= kLargestInteger; ++integer)
    EXPECT_EQ(f8_to_f32(f32_to_f8(float(integer))), float(integer));
}

TEST(Integers, TimesTheirStepsAreTheValues) {
  const auto ctx = cpu::open(2, FreshMemory::nan_bytes);
  for (DType dtype : {DType::f64, DType::f32}) check_integers(*ctx, dtype);
}

// The CPU, with a taste for integers and a count of the products of integers.
struct CountingKernels {
  Kernels table;
};
class IntegerContext final : private CountingKernels, public Context {
 public:
  explicit IntegerContext(Context& of)
      : CountingKernels{counting(*of.kernels)},
        Context(of.device, of.name, table, of.allocator, of.host_allocator),
        plain_(*of.kernels) {}
  void synchronize() override {}
  std::int64_t bytes_available() const override { return std::int64_t(1) << 40; }
  bool prefers_integers(DType, const Shape&, const Shape&) const override { return true; }

  std::int64_t products = 0;

 private:
  static Kernels counting(Kernels kernels) {
    kernels.matmul_integers = [](Context& ctx, View y, const IntegerRows& a, const IntegerRows& b, View bias,
                                 View addend) {
      auto& self = static_cast<IntegerContext&>(ctx);
      ++self.products;
      self.plain_.matmul_integers(ctx, y, a, b, bias, addend);
    };
    return kernels;
  }
  const Kernels& plain_;
};

ModelConfig tiny() {
  ModelConfig c{};
  c.family = Family::llama;
  c.layers = 1, c.hidden = 32, c.ffn = 48, c.heads = 2, c.kv_heads = 1, c.head_dim = 16, c.vocab = 32;
  c.max_positions = 8;
  c.norm_eps = 1e-5;
  c.activation = Activation::silu;
  c.dtype = DType::f16;
  return c;
}

struct Scheme {
  const char* name;
  WeightSpec weight;
  ActivationSpec activation;
  RoundingKind rounding;
  Hardness hardness;
  std::int64_t products;  // of integers, in one forward
};

// One forward and backward of a block: its output and the gradients of all that is learned.
std::vector<std::vector<double>> pass(Context& ctx, const Scheme& scheme) {
  const ModelConfig config = tiny();
  Rng rng(5);
  const auto random = [&](Shape shape, double deviation) {
    std::vector<double> values(std::size_t(shape.count()));
    for (double& v : values) v = deviation * rng.normal();
    return from_host<double>(ctx, shape, DType::f64, values);
  };
  BlockWeights weights;
  for (const LinearRole role : linear_roles(config.family))
    weights[role].weight = random(weight_shape(config, role), 0.2);
  weights.attention_norm.weight = weights.mlp_norm.weight = full(ctx, {config.hidden}, DType::f64, 1);
  BlockSpec spec;
  spec.fill({scheme.weight, scheme.activation});
  QuantBlock block(ctx, config, std::move(weights), spec, {}, RoundingOptions{.kind = scheme.rounding}, rng);
  // At 1 the largest of a row lies on a tie of the symmetric grid.
  for (Parameter* factor : block.activation_parameters()) factor->value = full(ctx, {1}, DType::f64, 0.93);
  Tape tape(ctx);
  block.use(&tape, scheme.hardness);
  const Sequence sequence = make_sequence(ctx, config, 1, 0, config.max_positions, DType::f64);
  const Var y = block_forward(ctx, config, block, random({config.max_positions, config.hidden}, 1), sequence);
  std::vector<std::vector<double>> results = {to_host<double>(ctx, y.value)};
  tape.backward(y, random({config.max_positions, config.hidden}, 1));
  for (auto parameters : {block.rounding_parameters(), block.scale_parameters(), block.activation_parameters()})
    for (Parameter* p : parameters) results.push_back(to_host<double>(ctx, p->slot->grad));
  return results;
}

TEST(Integers, BlocksMultiplyThemWhereBothSidesHaveThem) {
  const auto cpu = cpu::open(1, FreshMemory::nan_bytes);
  const WeightSpec w4{4, -1, Symmetry::asymmetric};
  const ActivationSpec a4{4, Symmetry::symmetric};
  const auto ste = RoundingKind::lora_ste, lora = RoundingKind::lora;
  for (const Scheme& scheme : {Scheme{"W4A4", w4, a4, ste, Hardness::hard, 7},
                               {"W2A4", {2, -1, Symmetry::symmetric}, a4, ste, Hardness::hard, 7},
                               {"W5A5", {5, -1, Symmetry::symmetric}, {5, Symmetry::symmetric}, ste, Hardness::hard, 7},
                               {"sign", w4, a4, RoundingKind::sign, Hardness::hard, 7},
                               {"weights", w4, a4, RoundingKind::weights, Hardness::hard, 7},
                               {"lora, hard", w4, a4, lora, Hardness::hard, 7},
                               {"lora, soft", w4, a4, lora, Hardness::soft, 0},
                               {"W4A5 asymmetric", w4, {5, Symmetry::asymmetric}, ste, Hardness::hard, 0},
                               {"W5 asymmetric", {5, -1, Symmetry::asymmetric}, a4, ste, Hardness::hard, 0},
                               {"W4A8", w4, {8, Symmetry::symmetric}, ste, Hardness::hard, 0},
                               {"W4A16", w4, {}, ste, Hardness::hard, 0},
                               {"groups", {4, 16, Symmetry::asymmetric}, a4, ste, Hardness::hard, 0}}) {
    SCOPED_TRACE(scheme.name);
    IntegerContext integers(*cpu);
    const auto expected = pass(*cpu, scheme), actual = pass(integers, scheme);
    EXPECT_EQ(integers.products, scheme.products);
    ASSERT_EQ(actual.size(), expected.size());
    ASSERT_GT(actual.size(), 1u);
    for (std::size_t i = 0; i < actual.size(); ++i)
      for (std::size_t j = 0; j < actual[i].size(); ++j)
        ASSERT_NEAR(actual[i][j], expected[i][j], 1e-9 * (1 + std::abs(expected[i][j]))) << i << ", " << j;
  }
}

TEST(Integers, AreRefusedWhereThereAreNone) {
  const auto ctx = cpu::open(1);
  const Tensor x = full(*ctx, {2, 3}, DType::f32, 1), factor = full(*ctx, {1}, DType::f32, 1);
  const auto form = ops::Form::with_integers;
  EXPECT_THROW(ops::fake_quant(*ctx, x, {factor, 8, Symmetry::symmetric, form}), Error);
  EXPECT_THROW(ops::fake_quant(*ctx, x, {factor, 5, Symmetry::asymmetric, form}), Error);
  const auto weight = [&](std::int64_t groups, int bits, Rounder rounder) {
    const Tensor step = full(*ctx, {2, groups}, DType::f32, 1);
    return ops::quantise_weight(*ctx, {x, step, step, bits, rounder, {}, {}, {}, {}, form});
  };
  EXPECT_NO_THROW(weight(1, 4, Rounder::straight_through));
  EXPECT_THROW(weight(3, 4, Rounder::straight_through), Error);
  EXPECT_THROW(weight(1, 8, Rounder::straight_through), Error);
  EXPECT_THROW(weight(1, 4, Rounder::sigmoid), Error);
}

}  // namespace
}  // namespace cbq::test
