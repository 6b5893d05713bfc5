// Graphs: where gradients meet, what the tape keeps, and when it lets go.
#include "autograd/tape.h"

#include "core/kernels.h"
#include "tests/check.h"

namespace cbq::test {
namespace {

using Vars = std::span<const Var>;

class TapeTest : public testing::Test {
 protected:
  Tensor tensor(Shape shape, std::uint64_t seed) {
    Rng rng(seed);
    return from_host<double>(ctx_, shape, DType::f64, normal(rng, shape.count()));
  }
  Values host(const Tensor& x) { return to_host<double>(ctx_, x); }

  // A graph is differentiated like an op.
  void check_graph(std::vector<Input> inputs, std::function<Var(Context&, Vars)> run) {
    const OpCase c{"graph", {}, inputs, normal_sample(inputs), std::move(run)};
    const std::vector<Values> point = c.sample();
    const HostFunction f = [&](std::span<const Values> in) { return forward(ctx_, c, DType::f64, in); };
    check_gradients(c, f, point, evaluate(ctx_, c, DType::f64, point));
  }

  std::unique_ptr<Context> owner_ = open_cpu();
  Context& ctx_ = *owner_;
};

TEST_F(TapeTest, ValueUsedTwice) {
  check_graph({{{3, 4}}}, [](Context& ctx, Vars in) { return ops::add(ctx, in[0], in[0]); });
  check_graph({{{3, 4}}}, [](Context& ctx, Vars in) { return ops::mul(ctx, in[0], in[0]); });
}

TEST_F(TapeTest, SeedGradientIsNotWrittenTo) {
  Tape tape(ctx_);
  const Var x = tape.leaf(tensor({3, 4}, 1));
  const Tensor seed = tensor({3, 4}, 2);
  const Values before = host(seed);
  tape.backward(ops::add(ctx_, x, x), seed);
  EXPECT_EQ(host(seed), before);
  Values twice = before;
  for (double& v : twice) v *= 2;
  EXPECT_EQ(host(x.slot->grad), twice);
}

// u = norm(x), z = x + y, u + z: the gradient that an add hands to both sides must not be changed through one of them.
TEST_F(TapeTest, Residual) {
  check_graph({{{5, 8}}, {{5, 8}}, {{8}}}, [](Context& ctx, Vars in) {
    const Var u = ops::rms_norm(ctx, in[0], in[2], 1e-5), z = ops::add(ctx, in[0], in[1]);
    return ops::add(ctx, u, z);
  });
}

// Products add to what their input has collected, but not where another value still reads those bytes: here the
// gradient of x when the first product comes is also the one it multiplies by.
TEST_F(TapeTest, ProductsOfOneInput) {
  check_graph({{{5, 8}}, {{8, 8}}, {{8, 8}}}, [](Context& ctx, Vars in) {
    const Var first = ops::linear(ctx, in[0], in[1]), second = ops::linear(ctx, in[0], in[2]);
    return ops::add(ctx, ops::mul(ctx, second, second), first);
  });
  check_graph({{{5, 8}}, {{8, 8}}, {{5, 8}}}, [](Context& ctx, Vars in) {
    const Var y = ops::linear(ctx, in[0], in[1]), z = ops::add(ctx, in[0], in[2]);
    return ops::add(ctx, y, z);
  });
}

TEST_F(TapeTest, ChainOfResiduals) {
  check_graph({{{6, 8}}, {{8, 8}}, {{8}}}, [](Context& ctx, Vars in) {
    Var x = in[0];
    for (int layer = 0; layer < 3; ++layer) {
      const Var n = ops::rms_norm(ctx, x, in[2], 1e-5);
      x = ops::add(ctx, x, ops::activation(ctx, ops::linear(ctx, n, in[1]), Activation::silu));
      x = ops::add(ctx, x, ops::reshape(ctx, ops::reshape(ctx, x, {8, 6}), {6, 8}));
    }
    return x;
  });
}

TEST_F(TapeTest, BackwardEmptiesTheTapeAndTheMemory) {
  for (const OpCase& c : all_cases()) {
    const std::vector<Values> point = c.sample();
    std::vector<Tensor> inputs;
    for (std::size_t i = 0; i < point.size(); ++i) inputs.push_back(to_tensor(ctx_, c.inputs[i], DType::f32, point[i]));
    const std::int64_t mark = ctx_.allocator->bytes_in_use();
    {
      Tape tape(ctx_);
      std::vector<Var> vars;
      std::int64_t gradient_bytes = 0;
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        const bool is_leaf = c.inputs[i].role == Role::differentiated;
        vars.push_back(is_leaf ? tape.leaf(inputs[i]) : Var(inputs[i]));
        if (is_leaf) gradient_bytes += inputs[i].bytes();
      }
      Var y = c.run(ctx_, vars);
      EXPECT_GT(tape.size(), 0u) << c.name;
      tape.backward(y);
      EXPECT_EQ(tape.size(), 0u) << c.name;
      EXPECT_EQ(tape.saved_bytes(), 0) << c.name;
      y = Var();
      EXPECT_LE(ctx_.allocator->bytes_in_use() - mark, gradient_bytes) << c.name;
    }
    EXPECT_EQ(ctx_.allocator->bytes_in_use(), mark) << c.name;
  }
}

TEST_F(TapeTest, ConstantsRecordNothing) {
  Tape tape(ctx_);
  const Tensor x = tensor({4, 4}, 1), w = tensor({4}, 2);
  const Var y = ops::rms_norm(ctx_, ops::matmul(ctx_, x, Trans::no, x, Trans::yes), w, 1e-5);
  EXPECT_FALSE(y.needs_grad());
  EXPECT_EQ(tape.size(), 0u);
  EXPECT_THROW(tape.backward(y), Error);
}

TEST_F(TapeTest, SavedBytesAreThoseOfTheTensorsNeeded) {
  Tape tape(ctx_);
  const Tensor a = tensor({4, 8}, 1), b = tensor({8, 2}, 2);
  ops::matmul(ctx_, tape.leaf(a), Trans::no, b, Trans::no);
  EXPECT_EQ(tape.saved_bytes(), b.bytes());  // a is only needed for the gradient of the constant b
  ops::matmul(ctx_, tape.leaf(a), Trans::no, tape.leaf(b), Trans::no);
  EXPECT_EQ(tape.saved_bytes(), 2 * b.bytes() + a.bytes());
}

TEST_F(TapeTest, TwoTapesInOneOpAreAnError) {
  Tape first(ctx_), second(ctx_);
  const Var a = first.leaf(tensor({2, 2}, 1)), b = second.leaf(tensor({2, 2}, 2));
  EXPECT_THROW(ops::add(ctx_, a, b), Error);
  EXPECT_THROW(second.backward(a), Error);
}

TEST_F(TapeTest, ParameterGradientsAddOverTapes) {
  const Parameter w("w", tensor({3, 3}, 1));
  Values expected(9, 0.0);
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const Tensor x = tensor({3, 3}, 10 + seed);
    Tape tape(ctx_);
    tape.backward(ops::mul(ctx_, x, tape.leaf(w)));
    const Values step = host(x);
    for (std::size_t i = 0; i < 9; ++i) expected[i] += step[i];
  }
  expect_close(host(w.slot->grad), expected, tolerance(DType::f64), "sum of three gradients");
}

TEST_F(TapeTest, BranchWithoutInfluenceIsSkipped) {
  Tape tape(ctx_);
  const Var x = tape.leaf(tensor({2, 3}, 1));
  const Var unused = ops::scale(ctx_, x, 5);
  tape.backward(ops::scale(ctx_, x, 2));
  EXPECT_EQ(host(x.slot->grad), Values(6, 2.0));
  EXPECT_FALSE(bool(unused.slot->grad));
}

TEST_F(TapeTest, WrongShapesAreErrorsThatNameTheOp) {
  const auto message = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  };
  const Tensor x = tensor({2, 3}, 1), y = tensor({3, 4}, 2), w = tensor({4}, 3);
  const std::string chain = message([&] { ops::matmul(ctx_, x, Trans::no, y, Trans::yes); });
  EXPECT_NE(chain.find("matmul"), std::string::npos) << chain;
  EXPECT_NE(chain.find("(3, 4)"), std::string::npos) << chain;
  EXPECT_EQ(message([&] { ops::rms_norm(ctx_, x, w, 1e-5); }).substr(0, 8), "rms_norm");
  EXPECT_EQ(message([&] { ops::add(ctx_, x, y); }).substr(0, 3), "add");
  EXPECT_EQ(message([&] { ops::attention(ctx_, x, y, y, {1, 1, 1}); }).substr(0, 9), "attention");
  EXPECT_EQ(message([&] { ops::mse(ctx_, x, convert(ctx_, x, DType::f32)); }).substr(0, 3), "mse");
  EXPECT_EQ(message([&] { ops::cross_entropy(ctx_, x, x); }).substr(0, 13), "cross_entropy");
  EXPECT_EQ(message([&] { ops::embedding(ctx_, x, x); }).substr(0, 9), "embedding");
  EXPECT_EQ(message([&] { ops::fake_quant(ctx_, x, {w, 4, Symmetry::symmetric}); }).substr(0, 10), "fake_quant");
  EXPECT_EQ(message([&] {
              ops::quantise_weight(ctx_, {x, y, y, 4, Rounder::sigmoid, {}, {}, {}});
            }).substr(0, 15),
            "quantise_weight");
}

}  // namespace
}  // namespace cbq::test
