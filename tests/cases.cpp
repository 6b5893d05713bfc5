#include "tests/cases.h"

#include <cmath>

namespace cbq::test {
namespace {

constexpr std::uint64_t kSeed = 20260;
using Vars = std::span<const Var>;

}  // namespace

std::string dims(std::initializer_list<std::int64_t> sizes) {
  std::string text;
  for (std::int64_t size : sizes) text = concat(text, text.empty() ? "_" : "x", size);
  return text;
}

Values normal(Rng& rng, std::int64_t count, double deviation) {
  Values values;
  values.resize(std::size_t(count));
  for (double& v : values) v = deviation * rng.normal();
  return values;
}

double uniform(Rng& rng, double low, double high) {
  return low + (high - low) * rng.uniform();
}

std::vector<Values> rounded(std::vector<Values> inputs) {
  for (Values& values : inputs)
    for (double& v : values) v = double(float(v));
  return inputs;
}

OpCase matrix_case(const std::string& name, std::vector<std::string> kernels, MatrixSize s, int inputs, double passes,
                   double flops, std::function<Var(Context&, Vars)> run) {
  const std::vector<Input> in(std::size_t(inputs), Input{{s.R, s.C}});
  const double count = double(s.R * s.C);
  return {concat(name, dims({s.R, s.C})),
          std::move(kernels),
          in,
          normal_sample(in),
          std::move(run),
          4 * passes * count,
          flops * count};
}

std::function<std::vector<Values>()> normal_sample(std::vector<Input> inputs) {
  return [inputs = std::move(inputs)] {
    Rng rng(kSeed);
    std::vector<Values> values;
    for (const Input& in : inputs)
      values.push_back(in.role == Role::index ? Values(std::size_t(in.shape.count()), 0.0)
                                              : normal(rng, in.shape.count()));
    return rounded(std::move(values));
  };
}

OpCase rms_norm_case(std::int64_t R, std::int64_t C) {
  const double eps = narrow_eps(C);
  const std::vector<Input> in = {{{R, C}}, {{C}}};
  return {"rms_norm" + dims({R, C}),
          {"rms_norm_forward", "rms_norm_backward"},
          in,
          normal_sample(in),
          [eps](Context& ctx, Vars x) { return ops::rms_norm(ctx, x[0], x[1], eps); },
          8.0 * double(R * C),
          4.0 * double(R * C)};
}

OpCase layer_norm_case(std::int64_t R, std::int64_t C) {
  const double eps = narrow_eps(C);
  const std::vector<Input> in = {{{R, C}}, {{C}}, {{C}}};
  return {"layer_norm" + dims({R, C}),
          {"layer_norm_forward", "layer_norm_backward"},
          in,
          normal_sample(in),
          [eps](Context& ctx, Vars x) { return ops::layer_norm(ctx, x[0], x[1], x[2], eps); },
          8.0 * double(R * C),
          8.0 * double(R * C)};
}

OpCase residual_norm_case(std::int64_t R, std::int64_t C, NormKind kind, Between between) {
  OpCase c = kind == NormKind::rms         ? rms_norm_case(R, C)
             : kind == NormKind::layer     ? layer_norm_case(R, C)
             : kind == NormKind::rms_quant ? rms_norm_quant_case(R, C, Symmetry::symmetric, 0.83)
                                           : layer_norm_quant_case(R, C, Symmetry::symmetric, 0.83);
  c.name += between == Between::scale ? "_scaled_residual" : "_residual";
  c.kernels.push_back("add");
  for (std::size_t i = 1; i < c.inputs.size(); ++i) c.inputs[i].role = Role::constant;
  c.run = [=, norm = c.run](Context& ctx, Vars in) {
    const Var y = norm(ctx, in);
    return ops::add(ctx, in[0], between == Between::scale ? ops::scale(ctx, y, -0.7) : y);
  };
  if (c.surrogate)
    c.surrogate = [=, of_norm = c.surrogate](std::span<const Values> point) -> HostFunction {
      return [=, f = of_norm(point)](std::span<const Values> in) {
        Values y = f(in);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] = in[0][i] + (between == Between::scale ? -0.7 : 1) * y[i];
        return y;
      };
    };
  return c;
}

OpCase softmax_case(std::int64_t R, std::int64_t C) {
  return matrix_case("softmax", {"softmax_forward", "softmax_backward"}, {R, C}, 1, 2, 5,
                     [](Context& ctx, Vars in) { return ops::softmax(ctx, in[0]); });
}

OpCase activation_case(std::int64_t R, std::int64_t C, Activation kind) {
  constexpr const char* kNames[] = {"relu", "silu", "gelu", "gelu_tanh"};
  OpCase c = matrix_case(kNames[int(kind)], {"activation_forward", "activation_backward"}, {R, C}, 1, 2, 8,
                         [kind](Context& ctx, Vars in) { return ops::activation(ctx, in[0], kind); });
  c.sample = [draw = c.sample] {
    std::vector<Values> in = draw();
    for (double& v : in[0]) v += std::copysign(0.125, v);  // away from the kink of relu
    return rounded(std::move(in));
  };
  return c;
}

OpCase gated_case(std::int64_t R, std::int64_t C) {
  return matrix_case("gated", {"gated_forward", "gated_backward"}, {R, C}, 2, 3, 6,
                     [](Context& ctx, Vars in) { return ops::gated(ctx, in[0], in[1]); });
}

OpCase embedding_case(std::int64_t R, std::int64_t V, std::int64_t C) {
  const std::vector<Input> in = {{{V, C}}, {{R}, Role::index}};
  return {"embedding" + dims({R, V, C}),
          {"embedding_forward", "embedding_backward"},
          in,
          [draw = normal_sample(in), V] {
            std::vector<Values> values = draw();
            Rng rng(kSeed + 1);
            for (double& id : values[1]) id = double(rng.below(std::uint64_t(V)));
            values[1].back() = double(V - 1);
            return values;
          },
          [](Context& ctx, Vars x) { return ops::embedding(ctx, x[0], x[1].value); },
          8.0 * double(R * C)};
}

OpCase rope_case(std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t D) {
  const std::vector<Input> in = {
      {{B * T, H * D}}, {{T, D / 2}, Role::constant, Width::statistic}, {{T, D / 2}, Role::constant, Width::statistic}};
  return {"rope" + dims({B, T, H, D}),
          {"rope"},
          in,
          [draw = normal_sample(in)] {
            std::vector<Values> values = draw();
            for (std::size_t i = 0; i < values[1].size(); ++i) {
              const double angle = 3 * values[1][i];
              values[1][i] = std::cos(angle);
              values[2][i] = std::sin(angle);
            }
            return rounded(std::move(values));
          },
          [B, H](Context& ctx, Vars x) { return ops::rope(ctx, x[0], x[1].value, x[2].value, B, H); },
          8.0 * double(B * T * H * D),
          3.0 * double(B * T * H * D)};
}

OpCase attention_case(const AttentionSize& s) {
  const std::vector<Input> in = {{{s.B * s.Tq, s.H * s.D}}, {{s.B * s.Tk, s.Hkv * s.D}}, {{s.B * s.Tk, s.Hkv * s.D}}};
  const double scores = double(s.B * s.H) * double(s.Tq) * (double(s.Tk) - double(s.Tq - 1) / 2);  // below the mask
  return {"attention" + dims({s.B, s.Tq, s.Tk, s.H, s.Hkv, s.D}),
          {"attention_forward", "attention_backward"},
          in,
          normal_sample(in),
          [s](Context& ctx, Vars x) {
            return ops::attention(ctx, x[0], x[1], x[2], {s.B, s.H, s.Hkv});
          },
          4.0 * double(2 * s.B * s.Tq * s.H * s.D + 2 * s.B * s.Tk * s.Hkv * s.D),
          scores * 4 * double(s.D)};
}

OpCase matmul_case(std::int64_t M, std::int64_t N, std::int64_t K, Trans trans_a, Trans trans_b, Bias bias,
                   Addend addend) {
  const auto shape = [](std::int64_t rows, std::int64_t cols, Trans t) {
    return t == Trans::no ? Shape{rows, cols} : Shape{cols, rows};
  };
  std::vector<Input> in = {{shape(M, K, trans_a)}, {shape(K, N, trans_b)}};
  if (bias == Bias::row) in.push_back({{N}});
  if (addend != Addend::none) in.push_back({{M, N}});
  const auto letter = [](Trans t) { return t == Trans::no ? "n" : "t"; };
  return {concat("matmul_", letter(trans_a), letter(trans_b), bias == Bias::row ? "_bias" : "",
                 addend != Addend::none ? "_addend" : "", dims({M, N, K})),
          {"matmul", "column_sum"},
          in,
          normal_sample(in),
          [=](Context& ctx, Vars x) {
            return ops::matmul(ctx, x[0], trans_a, x[1], trans_b, bias == Bias::row ? x[2] : Var(),
                               addend != Addend::none ? x.back() : Var());
          },
          4.0 * double(M * K + K * N + M * N),
          2.0 * double(M * N) * double(K)};
}

OpCase mse_case(std::int64_t R, std::int64_t C) {
  return matrix_case("mse", {"mse_forward", "mse_backward"}, {R, C}, 2, 2, 3,
                     [](Context& ctx, Vars in) { return ops::mse(ctx, in[0], in[1]); });
}

OpCase kl_case(std::int64_t R, std::int64_t C) {
  return matrix_case("kl_divergence", {"kl_forward", "kl_backward", "mean_forward", "mean_backward"}, {R, C}, 2, 2, 10,
                     [](Context& ctx, Vars in) { return ops::kl_divergence(ctx, in[0], in[1]); });
}

OpCase cross_entropy_case(std::int64_t R, std::int64_t V) {
  const std::vector<Input> in = {{{R, V}}, {{R}, Role::index}};
  return {"cross_entropy" + dims({R, V}),
          {"cross_entropy_forward", "cross_entropy_backward", "mean_forward", "mean_backward"},
          in,
          [draw = normal_sample(in), V] {
            std::vector<Values> values = draw();
            Rng rng(kSeed + 2);
            for (double& target : values[1]) target = double(rng.below(std::uint64_t(V)));
            if (values[1].size() > 1) values[1][1] = -1;  // a row without a target
            return values;
          },
          [](Context& ctx, Vars x) { return ops::cross_entropy(ctx, x[0], x[1].value); },
          4.0 * double(R * V),
          5.0 * double(R * V)};
}

}  // namespace cbq::test
