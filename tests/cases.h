// Every differentiable op, declared once: the tests differentiate and compare it, the benchmark times it.
#pragma once

#include <cmath>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "core/rng.h"

namespace cbq::test {

using Values = std::vector<double>;
using HostFunction = std::function<Values(std::span<const Values> inputs)>;

// How an input takes part: index inputs are i32, the others floats.
enum class Role { differentiated, constant, index };

// In which type a float input comes when values are bf16: in bf16 too, or, as statistics and learned parameters, in
// f32.
enum class Width { value, statistic };

struct Input {
  Shape shape;
  Role role = Role::differentiated;
  Width width = Width::value;
};

struct OpCase {
  std::string name;
  std::vector<std::string> kernels;  // of core/kernels.h, that forward and backward run
  std::vector<Input> inputs;
  // Values of all inputs, the same at each call, exact in f32, away from kinks by more than the steps of check.h.
  std::function<std::vector<Values>()> sample;
  std::function<Var(Context&, std::span<const Var>)> run;
  double bytes = 0, flops = 0;  // of one forward in f32: each input read once, each output written once
  // Times the f32 tolerance of check.h, for results that f32 cannot hold as well; the reason stands beside it.
  double f32_tolerance_factor = 1;
  // Straight-through ops only: given the point, a smooth function that has the op's value there and, as its exact
  // derivative, the op's gradient. Rounding residuals and clip decisions are frozen at the point.
  std::function<HostFunction(std::span<const Values> point)> surrogate = {};
};

// Small shapes around the widths of vectors and warps, for tests; some are large enough to start threads.
std::vector<OpCase> smooth_cases();
std::vector<OpCase> quantiser_cases();  // smooth ones and straight-through ones
std::vector<OpCase> all_cases();
// Shapes of one LLaMA-7B block over `tokens` tokens.
std::vector<OpCase> model_cases(std::int64_t tokens);

// Letters of core/kernels.h.
OpCase rms_norm_case(std::int64_t R, std::int64_t C);
OpCase layer_norm_case(std::int64_t R, std::int64_t C);
// x + f(norm(x)), w and b constant, where the norm's backward adds to the gradient of x: one that f's backward still
// reads (f is the identity) or has let go of (f scales).
enum class Between { identity, scale };
enum class NormKind { rms, layer, rms_quant, layer_quant };
OpCase residual_norm_case(std::int64_t R, std::int64_t C, NormKind kind, Between between);
OpCase softmax_case(std::int64_t R, std::int64_t C);
OpCase activation_case(std::int64_t R, std::int64_t C, Activation kind);
OpCase gated_case(std::int64_t R, std::int64_t C);
OpCase embedding_case(std::int64_t R, std::int64_t V, std::int64_t C);
OpCase rope_case(std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t D);
struct AttentionSize {
  std::int64_t B, Tq, Tk, H, Hkv, D;
};
OpCase attention_case(const AttentionSize& size);
enum class Bias { none, row };
enum class Addend { none, apart, in_place };  // in_place: the output itself, for kernels
OpCase matmul_case(std::int64_t M, std::int64_t N, std::int64_t K, Trans trans_a, Trans trans_b, Bias bias,
                   Addend addend = Addend::none);
OpCase mse_case(std::int64_t R, std::int64_t C);
OpCase kl_case(std::int64_t R, std::int64_t C);
OpCase cross_entropy_case(std::int64_t R, std::int64_t V);
OpCase fake_quant_case(std::int64_t R, std::int64_t C, int bits, Symmetry symmetry, double factor,
                       ops::Form form = ops::Form::values);
OpCase rms_norm_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor);
// C at least 4.
OpCase layer_norm_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor);
OpCase activation_quant_case(std::int64_t R, std::int64_t C, Activation kind, Symmetry symmetry, double factor);
OpCase gated_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor);

enum class GridOutput { scale, zero, sum };
OpCase clip_grid_case(std::int64_t out, std::int64_t groups, int bits, Symmetry symmetry, GridOutput wanted);

enum class Offset { none, dense, factors };
enum class Learned { everything, offset };    // offset: w, scale and zero are constants, and the op is smooth
enum class DecidedOn { scale, start_scale };  // start_scale: the last input, a constant, other than the scale
struct QuantiserSize {
  std::int64_t out, in, groups;
  int bits;
  std::int64_t K = 3;
};
OpCase quantise_weight_case(const QuantiserSize& size, Rounder rounder, Offset offset, Learned learned,
                            DecidedOn decided_on = DecidedOn::scale, ops::Form form = ops::Form::values);
// A linear layer whose input and weight are two cases: their inputs in turn, then bias and addend. A product of
// integers where both cases give them.
OpCase linear_case(const OpCase& x, const OpCase& w, Bias bias, Addend addend);

// ---- for the builders

// An op of one matrix or of several equal ones; passes: matrices read or written; flops per element.
struct MatrixSize {
  std::int64_t R, C;
};
OpCase matrix_case(const std::string& name, std::vector<std::string> kernels, MatrixSize size, int inputs,
                   double passes, double flops, std::function<Var(Context&, std::span<const Var>)> run);
std::string dims(std::initializer_list<std::int64_t> sizes);
Values normal(Rng& rng, std::int64_t count, double deviation = 1);
// 2^bits - 1, the largest code.
inline double levels(int bits) {
  return double((1 << bits) - 1);
}
// Distance of x from the nearest k + 1/2.
inline double tie_distance(double x) {
  return std::abs(x - std::floor(x) - 0.5);
}
double uniform(Rng& rng, double low, double high);
// For norms: dx over one or two columns is of the size of eps, what remains of terms that cancel.
inline double narrow_eps(std::int64_t C) {
  return C <= 2 ? 0.5 : 1e-5;
}
// Standard normal values for each float input; index inputs stay 0.
std::function<std::vector<Values>()> normal_sample(std::vector<Input> inputs);
// The same values rounded to f32.
std::vector<Values> rounded(std::vector<Values> inputs);

}  // namespace cbq::test
