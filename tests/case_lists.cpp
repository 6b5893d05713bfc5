#include <algorithm>
#include <array>

#include "tests/cases.h"

namespace cbq::test {
namespace {

using Vars = std::span<const Var>;
constexpr MatrixSize kSizes[] = {{1, 257}, {257, 1}, {31, 33}, {33, 32}, {32, 31}, {257, 65}, {5, 4099}};

void add_elementwise(std::vector<OpCase>& cases, MatrixSize s) {
  cases.push_back(
      matrix_case("add", {"add"}, s, 2, 3, 1, [](Context& ctx, Vars in) { return ops::add(ctx, in[0], in[1]); }));
  cases.push_back(
      matrix_case("mul", {"mul"}, s, 2, 3, 1, [](Context& ctx, Vars in) { return ops::mul(ctx, in[0], in[1]); }));
  cases.push_back(
      matrix_case("scale", {"scale"}, s, 1, 2, 1, [](Context& ctx, Vars in) { return ops::scale(ctx, in[0], -0.7); }));
  cases.push_back(matrix_case("mean", {"mean_forward", "mean_backward"}, s, 1, 1, 1,
                              [](Context& ctx, Vars in) { return ops::mean(ctx, in[0]); }));
  cases.push_back(matrix_case("reshape", {}, s, 1, 0, 0, [s](Context& ctx, Vars in) {
    return ops::reshape(ctx, in[0], {s.C, s.R});
  }));
  OpCase scaled_exp = matrix_case("scaled_exp", {"scaled_exp"}, s, 2, 3, 2,
                                  [](Context& ctx, Vars in) { return ops::scaled_exp(ctx, in[0].value, in[1]); });
  scaled_exp.inputs[0].role = Role::constant;
  cases.push_back(std::move(scaled_exp));
}

}  // namespace

std::vector<OpCase> quantiser_cases() {
  std::vector<OpCase> cases;
  for (Symmetry symmetry : {Symmetry::symmetric, Symmetry::asymmetric}) {
    for (double factor : {0.83, 1.1})
      for (auto [R, C] : {std::pair{1, 257}, {257, 1}, {31, 33}, {33, 32}, {257, 129}})
        cases.push_back(fake_quant_case(R, C, R == 33 ? 8 : 4, symmetry, factor));
    // Without clipped elements dfactor would be what bf16 rounds between the two ops. At these factors their sums do
    // not nearly cancel.
    for (auto [R, C] : {std::pair{1, 257}, {257, 1}, {33, 32}, {65, 129}, {5, 4104}}) {
      cases.push_back(rms_norm_quant_case(R, C, symmetry, 0.83));
      cases.push_back(layer_norm_quant_case(R, std::max(C, 4), symmetry, 0.68));
      for (Activation kind : {Activation::relu, Activation::gelu})
        cases.push_back(activation_quant_case(R, C, kind, symmetry, 0.72));
      cases.push_back(gated_quant_case(R, C, symmetry, 0.83));
    }
    for (NormKind kind : {NormKind::rms_quant, NormKind::layer_quant})
      for (Between between : {Between::identity, Between::scale})
        cases.push_back(residual_norm_case(65, symmetry == Symmetry::symmetric ? 129 : 64, kind, between));
    for (GridOutput wanted : {GridOutput::scale, GridOutput::zero, GridOutput::sum}) {
      cases.push_back(clip_grid_case(33, 1, 4, symmetry, wanted));
      cases.push_back(clip_grid_case(31, 32, 2, symmetry, wanted));
    }
  }
  // Products of integers: at sizes that tensor cores take and at others.
  for (auto [R, out, in] : {std::array<std::int64_t, 3>{32, 48, 64}, {16, 16, 128}, {5, 31, 33}})
    for (auto [bias, addend] :
         {std::pair{Bias::none, Addend::none}, {Bias::row, Addend::none}, {Bias::none, Addend::apart}})
      cases.push_back(
          linear_case(fake_quant_case(R, in, 4, bias == Bias::row ? Symmetry::asymmetric : Symmetry::symmetric, 0.83,
                                      ops::Form::with_integers),
                      quantise_weight_case({out, in, 1, 4},
                                           addend == Addend::apart ? Rounder::sigmoid_hard : Rounder::straight_through,
                                           bias == Bias::row ? Offset::dense : Offset::factors, Learned::everything,
                                           DecidedOn::scale, ops::Form::with_integers),
                      bias, addend));
  const QuantiserSize sizes[] = {{1, 257, 1, 4}, {257, 1, 1, 3},   {31, 33, 3, 2},    {33, 32, 1, 8},
                                 {32, 64, 2, 4}, {257, 129, 3, 4}, {33, 31, 1, 4, 11}};
  for (const QuantiserSize& size : sizes) {
    for (Offset offset : {Offset::none, Offset::dense, Offset::factors})
      for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid, Rounder::sigmoid_hard})
        for (DecidedOn decided_on : {DecidedOn::scale, DecidedOn::start_scale})
          cases.push_back(quantise_weight_case(size, rounder, offset, Learned::everything, decided_on));
    for (Offset offset : {Offset::dense, Offset::factors})
      cases.push_back(quantise_weight_case(size, Rounder::sigmoid, offset, Learned::offset));
  }
  return cases;
}

std::vector<OpCase> smooth_cases() {
  std::vector<OpCase> cases;
  for (const MatrixSize s : kSizes) {
    add_elementwise(cases, s);
    cases.push_back(rms_norm_case(s.R, s.C));
    cases.push_back(layer_norm_case(s.R, std::max<std::int64_t>(s.C, 2)));
    for (NormKind kind : {NormKind::rms, NormKind::layer})
      for (Between between : {Between::identity, Between::scale})
        cases.push_back(residual_norm_case(s.R, std::max<std::int64_t>(s.C, 2), kind, between));
    cases.push_back(softmax_case(s.R, s.C));
    for (Activation kind : {Activation::relu, Activation::silu, Activation::gelu, Activation::gelu_tanh})
      cases.push_back(activation_case(s.R, s.C, kind));
    cases.push_back(gated_case(s.R, s.C));
    cases.push_back(mse_case(s.R, s.C));
    cases.push_back(kl_case(s.R, s.C));
    cases.push_back(cross_entropy_case(s.R, s.C));
    cases.push_back(embedding_case(s.R, 33, s.C));
    for (Trans a : {Trans::no, Trans::yes})
      for (Trans b : {Trans::no, Trans::yes})
        for (Bias bias : {Bias::none, Bias::row}) cases.push_back(matmul_case(s.R, s.C, 31, a, b, bias));
  }
  cases.push_back(matmul_case(33, 32, 257, Trans::no, Trans::yes, Bias::row));
  cases.push_back(matmul_case(31, 33, 1, Trans::no, Trans::no, Bias::none));
  for (Bias bias : {Bias::none, Bias::row})
    for (auto [M, N] : {std::pair{1, 257}, {33, 31}, {64, 128}})
      cases.push_back(matmul_case(M, N, 65, Trans::no, Trans::yes, bias, Addend::apart));
  cases.push_back(rope_case(1, 1, 1, 2));
  cases.push_back(rope_case(2, 5, 3, 8));
  cases.push_back(rope_case(1, 33, 1, 62));
  cases.push_back(rope_case(1, 257, 2, 64));
  for (const AttentionSize& s : {AttentionSize{1, 1, 1, 1, 1, 2},
                                 {2, 5, 5, 4, 2, 8},
                                 {1, 3, 33, 2, 1, 4},
                                 {1, 31, 31, 4, 1, 6},
                                 {2, 1, 257, 2, 2, 4},
                                 {1, 33, 33, 1, 1, 32},
                                 {2, 32, 65, 6, 2, 33},
                                 {1, 70, 135, 2, 1, 4},
                                 {8, 129, 129, 4, 2, 4}})
    cases.push_back(attention_case(s));
  return cases;
}

std::vector<OpCase> all_cases() {
  std::vector<OpCase> cases = smooth_cases();
  for (OpCase& c : quantiser_cases()) cases.push_back(std::move(c));
  return cases;
}

std::vector<OpCase> model_cases(std::int64_t tokens) {
  constexpr std::int64_t kC = 4096, kF = 11008, kV = 32000, kH = 32, kD = 128;
  // dfactor, a sum of as many terms of either sign, would show what bf16 rounds between the two ops.
  const auto with_constant_factor = [](OpCase c) {
    c.inputs.back().role = Role::constant;
    return c;
  };
  return {rms_norm_case(tokens, kC),
          layer_norm_case(tokens, kC),
          rope_case(1, tokens, kH, kD),
          attention_case({1, tokens, tokens, kH, kH, kD}),
          gated_case(tokens, kF),
          activation_case(tokens, kF, Activation::gelu),
          embedding_case(tokens, kV, kC),
          matmul_case(tokens, kC, kC, Trans::no, Trans::yes, Bias::none),
          matmul_case(tokens, kF, kC, Trans::no, Trans::yes, Bias::none),
          softmax_case(tokens, kC),
          mse_case(tokens, kC),
          kl_case(tokens, kC),
          cross_entropy_case(tokens, kV),
          fake_quant_case(tokens, kC, 4, Symmetry::symmetric, 1.1),
          with_constant_factor(rms_norm_quant_case(tokens, kC, Symmetry::symmetric, 0.83)),
          with_constant_factor(layer_norm_quant_case(tokens, kC, Symmetry::symmetric, 0.83)),
          with_constant_factor(activation_quant_case(tokens, kF, Activation::relu, Symmetry::symmetric, 0.83)),
          with_constant_factor(gated_quant_case(tokens, kF, Symmetry::symmetric, 0.83)),
          quantise_weight_case({kC, kC, 1, 4}, Rounder::straight_through, Offset::dense, Learned::everything),
          quantise_weight_case({kC, kC, 32, 4}, Rounder::sigmoid, Offset::factors, Learned::everything)};
}

}  // namespace cbq::test
