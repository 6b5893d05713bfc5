#include <algorithm>
#include <cmath>

#include "tests/cases.h"

namespace cbq::test {
namespace {

using Vars = std::span<const Var>;
constexpr std::uint64_t kSeed = 20261;

// h of AdaRound and its inverse (AdaRound 2004.10568, eq. 23).
double h(double v) {
  return std::clamp(1.2 / (1 + std::exp(-v)) - 0.1, 0.0, 1.0);
}
double inverse_h(double fraction) {
  return std::log((fraction + 0.1) / (1.1 - fraction));
}
const double kSaturation = std::log(11.0);  // |v| from which h is 0 or 1

// ---- weights. Inputs in order: w, scale, zero, then dense or a1 and a2, then start_scale.

// Element i of the learned matrix.
double offset_at(std::span<const Values> in, Offset kind, const QuantiserSize& size, std::size_t i) {
  if (kind == Offset::none) return 0;
  if (kind == Offset::dense) return in[3][i];
  const std::size_t K = std::size_t(size.K), columns = std::size_t(size.in), row = i / columns, column = i % columns;
  double sum = 0;
  for (std::size_t k = 0; k < K; ++k) sum += in[3][row * K + k] * in[4][k * columns + column];
  return sum;
}

std::size_t group_of(const QuantiserSize& size, std::size_t i) {
  const std::size_t columns = std::size_t(size.in), groups = std::size_t(size.groups);
  return i / columns * groups + i % columns / (columns / groups);
}

// s0
const Values& start_of(std::span<const Values> in, DecidedOn decided_on) {
  return decided_on == DecidedOn::start_scale ? in.back() : in[1];
}

// w / s0 so that u = k + something clear of ties and kinks, some of it beyond the grid.
std::vector<Values> draw_quantiser(const QuantiserSize& size, Rounder rounder, Offset kind, DecidedOn decided_on) {
  Rng rng(kSeed);
  std::vector<Values> in(3);
  for (std::int64_t g = 0; g < size.out * size.groups; ++g) {
    in[1].push_back(uniform(rng, 0.05, 0.15));
    in[2].push_back(double(rng.below(std::uint64_t(levels(size.bits)) + 1)));
  }
  const bool is_sigmoid = rounder != Rounder::straight_through;
  if (kind == Offset::dense) in.push_back(normal(rng, size.out * size.in, is_sigmoid ? 1.5 : 0.3));
  if (kind == Offset::factors) {
    const double deviation = 0.9 / std::sqrt(std::sqrt(double(size.K)));  // about 0.8 for each element of a1 a2
    in.push_back(normal(rng, size.out * size.K, deviation));
    in.push_back(normal(rng, size.K * size.in, deviation));
  }
  if (decided_on == DecidedOn::start_scale) {
    in.emplace_back();
    for (const double s : in[1]) in.back().push_back(s * uniform(rng, 0.7, 1.3));
  }
  in = rounded(std::move(in));
  for (std::size_t i = 0; i < std::size_t(size.out * size.in); ++i) {
    const double s = start_of(in, decided_on)[group_of(size, i)], z = in[2][group_of(size, i)],
                 offset = offset_at(in, kind, size, i);
    const double k = double(rng.below(std::uint64_t(levels(size.bits)) + 5)) - 2 - z;
    double fraction = uniform(rng, -0.4, 0.4) - offset;  // straight_through: u = k
    const auto is_clear = [&](double v) {
      return std::abs(std::abs(v) - kSaturation) > 0.05 && (rounder == Rounder::sigmoid || std::abs(v) > 0.05);
    };
    if (is_sigmoid) do
        fraction = uniform(rng, 0.05, 0.95);
      while (!is_clear(inverse_h(fraction) + offset));
    in[0].push_back(s * (k + fraction));
  }
  return rounded(std::move(in));
}

HostFunction quantise_weight_surrogate(std::span<const Values> point, const QuantiserSize& size, Rounder rounder,
                                       Offset kind, DecidedOn decided_on) {
  struct Frozen {
    double base, v0, clipped;  // u = w/s0 + base + the learned part; clipped: q where clipped, NaN elsewhere
  };
  std::vector<Frozen> frozen;
  for (std::size_t i = 0; i < point[0].size(); ++i) {
    const double x = point[0][i] / start_of(point, decided_on)[group_of(size, i)], z = point[2][group_of(size, i)];
    const double offset = offset_at(point, kind, size, i), v0 = inverse_h(x - std::floor(x));
    double u = std::nearbyint(x + offset), base = u - x - offset;
    if (rounder == Rounder::sigmoid) u = std::floor(x) + h(v0 + offset), base = std::floor(x) - x;
    if (rounder == Rounder::sigmoid_hard) u = std::floor(x) + std::nearbyint(h(v0 + offset)), base = u - x;
    const double q = std::clamp(u + z, 0.0, levels(size.bits));
    frozen.push_back({base, v0, q == u + z ? NAN : q});
  }
  return [frozen, size, rounder, kind, decided_on](std::span<const Values> in) {
    Values w_hat;
    for (std::size_t i = 0; i < frozen.size(); ++i) {
      const double s = in[1][group_of(size, i)], z = in[2][group_of(size, i)], offset = offset_at(in, kind, size, i);
      double learned = offset;
      if (rounder == Rounder::sigmoid) learned = h(frozen[i].v0 + offset);
      if (rounder == Rounder::sigmoid_hard) learned = 0;
      const double u = in[0][i] / start_of(in, decided_on)[group_of(size, i)] + frozen[i].base + learned;
      w_hat.push_back(s * (std::isnan(frozen[i].clipped) ? u : frozen[i].clipped - z));
    }
    return w_hat;
  };
}

std::vector<Input> quantiser_inputs(const QuantiserSize& size, Offset kind, Role base, DecidedOn decided_on) {
  const Input grid{{size.out, size.groups}, base, Width::statistic};
  std::vector<Input> in = {{{size.out, size.in}, base}, grid, grid};
  const auto learn = [&in](Shape shape) { in.push_back({shape, Role::differentiated, Width::statistic}); };
  if (kind == Offset::dense) learn({size.out, size.in});
  if (kind == Offset::factors) learn({size.out, size.K}), learn({size.K, size.in});
  if (decided_on == DecidedOn::start_scale) in.push_back({grid.shape, Role::constant, Width::statistic});
  return in;
}

ops::WeightQuantiserVars quantiser_vars(Vars in, int bits, Rounder rounder, Offset kind, DecidedOn decided_on) {
  ops::WeightQuantiserVars vars{in[0], in[1], in[2], bits, rounder, {}, {}, {}};
  if (kind == Offset::dense) vars.dense = in[3];
  if (kind == Offset::factors) vars.a1 = in[3], vars.a2 = in[4];
  if (decided_on == DecidedOn::start_scale) vars.start_scale = in.back().value;
  return vars;
}

std::string suffix(const QuantiserSize& size, Offset kind, DecidedOn decided_on) {
  constexpr const char* kNames[] = {"", "_dense", "_factors"};
  return concat(kNames[int(kind)], decided_on == DecidedOn::start_scale ? "_start" : "",
                dims({size.out, size.in, size.groups, size.bits}));
}

}  // namespace

OpCase quantise_weight_case(const QuantiserSize& size, Rounder rounder, Offset offset, Learned learned,
                            DecidedOn decided_on, ops::Form form) {
  constexpr const char* kNames[] = {"straight_through", "sigmoid", "sigmoid_hard"};
  OpCase c{concat("quantise_weight_", kNames[int(rounder)], learned == Learned::offset ? "_smooth" : "",
                  suffix(size, offset, decided_on)),
           {"quantise_weight_forward", "quantise_weight_backward"},
           quantiser_inputs(size, offset, learned == Learned::everything ? Role::differentiated : Role::constant,
                            decided_on),
           [=] { return draw_quantiser(size, rounder, offset, decided_on); },
           [=](Context& ctx, Vars in) {
             ops::WeightQuantiserVars vars = quantiser_vars(in, size.bits, rounder, offset, decided_on);
             vars.form = form;
             return ops::quantise_weight(ctx, vars);
           },
           (offset == Offset::dense ? 12.0 : 8.0) * double(size.out * size.in),
           10.0 * double(size.out * size.in)};
  if (learned == Learned::everything)
    c.surrogate = [=](std::span<const Values> point) {
      return quantise_weight_surrogate(point, size, rounder, offset, decided_on);
    };
  return c;
}

OpCase linear_case(const OpCase& x, const OpCase& w, Bias bias, Addend addend) {
  const std::int64_t rows = x.inputs[0].shape.rows(), in = w.inputs[0].shape.cols(), out = w.inputs[0].shape.rows();
  const std::size_t of_x = x.inputs.size(), of_both = of_x + w.inputs.size();
  OpCase c{concat("linear", bias == Bias::row ? "_bias" : "", addend == Addend::apart ? "_addend" : "", "_of_", x.name,
                  "_and_", w.name),
           x.kernels,
           x.inputs,
           {},
           [=](Context& ctx, Vars vars) {
             return ops::linear(ctx, x.run(ctx, vars.first(of_x)), w.run(ctx, vars.subspan(of_x, of_both - of_x)),
                                bias == Bias::row ? vars[of_both] : Var(),
                                addend == Addend::apart ? vars.back() : Var());
           },
           x.bytes + w.bytes,
           2.0 * double(rows * in * out),
           x.f32_tolerance_factor};
  c.kernels.insert(c.kernels.end(), w.kernels.begin(), w.kernels.end());
  c.kernels.insert(c.kernels.end(), {"matmul_integers", "matmul"});
  c.inputs.insert(c.inputs.end(), w.inputs.begin(), w.inputs.end());
  std::vector<Input> plus;
  if (bias == Bias::row) plus.push_back({{out}});
  if (addend == Addend::apart) plus.push_back({{rows, out}});
  c.inputs.insert(c.inputs.end(), plus.begin(), plus.end());
  c.sample = [=, draw = normal_sample(plus)] {
    std::vector<Values> all = x.sample();
    for (const std::vector<Values>& more : {w.sample(), draw()}) all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  c.surrogate = [=](std::span<const Values> point) -> HostFunction {
    return [=, f = x.surrogate(point.first(of_x)),
            g = w.surrogate(point.subspan(of_x, of_both - of_x))](std::span<const Values> values) {
      const Values a = f(values.first(of_x)), b = g(values.subspan(of_x, of_both - of_x));
      Values y = addend == Addend::apart ? values.back() : Values(std::size_t(rows * out));
      for (std::size_t i = 0; i < y.size(); ++i) {
        const std::size_t r = i / std::size_t(out), n = i % std::size_t(out), K = std::size_t(in);
        if (bias == Bias::row) y[i] += values[of_both][n];
        for (std::size_t k = 0; k < K; ++k) y[i] += a[r * K + k] * b[n * K + k];
      }
      return y;
    };
  };
  return c;
}

OpCase clip_grid_case(std::int64_t out, std::int64_t groups, int bits, Symmetry symmetry, GridOutput wanted) {
  constexpr const char* kNames[] = {"_scale", "_zero", "_sum"};
  const Input constant{{out, groups}, Role::constant, Width::statistic};
  const Input learned{{out, groups}, Role::differentiated, Width::statistic};
  const std::vector<Input> in = {constant, constant, learned, learned};
  // s, and z before rounding; the straight-through round is 1 * that plus a constant.
  struct Grid {
    double step, zero;
  };
  const auto grid = [bits, symmetry](std::span<const Values> x, std::size_t i) -> Grid {
    const double s0 = x[0][i], z0 = x[1][i], low = x[2][i], high = x[3][i];
    if (symmetry == Symmetry::symmetric) return {high * s0, z0};
    const double s = (high * (levels(bits) - z0) + low * z0) * s0 / levels(bits);
    return {s, low * z0 * s0 / s};
  };
  return {concat("clip_grid_", symmetry == Symmetry::symmetric ? "symmetric" : "asymmetric", kNames[int(wanted)],
                 dims({out, groups, bits})),
          {"clip_grid_forward", "clip_grid_backward"},
          in,
          [=] {
            Rng rng(kSeed + 2);
            std::vector<Values> x(4, Values(std::size_t(out * groups)));
            for (std::size_t i = 0; i < x[0].size(); ++i) {
              x[0][i] = uniform(rng, 0.05, 0.15);
              x[1][i] = symmetry == Symmetry::symmetric ? std::pow(2, bits - 1)
                                                        : double(rng.below(std::uint64_t(levels(bits)) + 1));
              do x[2][i] = uniform(rng, 0.6, 1.1), x[3][i] = uniform(rng, 0.6, 1.1);
              while (tie_distance(grid(x, i).zero) < 0.02);
            }
            return rounded(std::move(x));
          },
          [=](Context& ctx, Vars x) {
            const ops::Grid g = ops::clip_grid(ctx, x[0].value, x[1].value, x[2], x[3], bits, symmetry);
            if (wanted == GridOutput::sum) return ops::add(ctx, g.scale, g.zero);
            return wanted == GridOutput::scale ? g.scale : g.zero;
          },
          24.0 * double(out * groups),
          8.0 * double(out * groups),
          1,
          [=](std::span<const Values> point) -> HostFunction {
            Values residual;
            for (std::size_t i = 0; i < point[0].size(); ++i) {
              const double z = grid(point, i).zero;
              residual.push_back(std::nearbyint(z) - z);
            }
            return [=](std::span<const Values> x) {
              Values y;
              for (std::size_t i = 0; i < residual.size(); ++i) {
                const Grid g = grid(x, i);
                y.push_back((wanted == GridOutput::zero ? 0 : g.step) +
                            (wanted == GridOutput::scale ? 0 : g.zero + residual[i]));
              }
              return y;
            };
          }};
}

}  // namespace cbq::test
