#include <algorithm>
#include <cmath>
#include <numbers>

#include "tests/cases.h"

namespace cbq::test {
namespace {

using Vars = std::span<const Var>;
constexpr std::uint64_t kSeed = 20262;

// The grid of one row of activations, before the learned factor.
struct RowGrid {
  double step, zero;
};
RowGrid row_grid(double low, double high, int bits, Symmetry symmetry) {
  if (symmetry == Symmetry::symmetric) return {std::max(high, -low) / (levels(bits) / 2), std::pow(2, bits - 1)};
  const double step = (high - low) / levels(bits);
  return {step, std::nearbyint(-low / step)};
}

// The range of a row whose elements stay clear of rounding ties.
struct ClearRange {
  double low, high, step;

  ClearRange(double from, double to, int bits, Symmetry symmetry, double factor) : low(from), high(to) {
    const RowGrid grid = row_grid(low, high, bits, symmetry);
    step = grid.step * factor;
    zero_is_clear_ = symmetry == Symmetry::symmetric || tie_distance(-low / grid.step) >= 0.05;
  }
  // Of itself, zero point included.
  bool is_clear() const { return zero_is_clear_ && is_clear(low) && is_clear(high); }
  bool is_clear(double x) const { return tie_distance(x / step) > 0.05; }
  double draw(Rng& rng, double from, double to) const {
    double x;
    do x = uniform(rng, from, to);
    while (!is_clear(x));
    return x;
  }

 private:
  bool zero_is_clear_;
};

ClearRange draw_range(Rng& rng, std::size_t columns, int bits, Symmetry symmetry, double factor) {
  for (;;) {
    const double low = uniform(rng, -3, -1), high = uniform(rng, 1, 3);
    const ClearRange range(columns == 1 ? 0 : low, high, bits, symmetry, factor);
    if (range.is_clear()) return range;
  }
}

// One clear row. The first two elements are its extremes.
void draw_row(Rng& rng, std::span<double> row, int bits, Symmetry symmetry, double factor) {
  const ClearRange range = draw_range(rng, row.size(), bits, symmetry, factor);
  for (double& x : row) x = range.draw(rng, range.low, range.high);
  row[0] = range.high;
  if (row.size() > 1) row[1] = range.low;
}

// One clear row with sum_c (row - b) / w = 0. Each element is drawn against the sum so far, the last one closes it.
void draw_row_around(Rng& rng, std::span<double> row, std::span<const double> w, std::span<const double> b, int bits,
                     Symmetry symmetry, double factor) {
  const ClearRange range = draw_range(rng, row.size(), bits, symmetry, factor);
  row[0] = range.high, row[1] = range.low;
  const std::size_t last = row.size() - 1;
  do {
    double sum = 0;
    for (std::size_t c = 0; c < last; ++c) {
      if (c > 1) row[c] = sum > 0 ? range.draw(rng, range.low, 0) : range.draw(rng, 0, range.high);
      sum += (row[c] - b[c]) / w[c];
    }
    row[last] = b[last] - w[last] * sum;
  } while (row[last] < range.low || row[last] > range.high || !range.is_clear(row[last]));
}

// The value that a quantiser reads as a smooth function of the inputs, the last of which is the factor: x itself, or
// what an op fused with the quantiser makes.
HostFunction fake_quant_surrogate(std::span<const Values> point, std::int64_t R, std::int64_t C, int bits,
                                  Symmetry symmetry, const HostFunction& make) {
  struct Frozen {
    double step0, residual, clipped;  // step at factor 1; round(x/s) - x/s; q - z where clipped, NaN elsewhere
  };
  std::vector<Frozen> frozen;
  const Values at_point = make(point);
  for (std::int64_t r = 0; r < R; ++r) {
    const std::span row = std::span(at_point).subspan(std::size_t(r * C), std::size_t(C));
    const RowGrid grid = row_grid(std::min(0.0, *std::ranges::min_element(row)),
                                  std::max(0.0, *std::ranges::max_element(row)), bits, symmetry);
    const double s = grid.step * point.back()[0];
    for (double x : row) {
      const double u = std::nearbyint(x / s), q = std::clamp(u + grid.zero, 0.0, levels(bits));
      frozen.push_back({grid.step, u - x / s, q == u + grid.zero ? NAN : q - grid.zero});
    }
  }
  return [frozen, make](std::span<const Values> in) {
    Values y = make(in);
    for (std::size_t i = 0; i < frozen.size(); ++i) {
      const double s = frozen[i].step0 * in.back()[0];
      y[i] = s * (std::isnan(frozen[i].clipped) ? y[i] / s + frozen[i].residual : frozen[i].clipped);
    }
    return y;
  };
}

// Rows that are clear of ties.
Values draw_rows(Rng& rng, std::int64_t R, std::int64_t C, int bits, Symmetry symmetry, double factor) {
  Values x(std::size_t(R * C));
  for (std::int64_t r = 0; r < R; ++r)
    draw_row(rng, std::span(x).subspan(std::size_t(r * C), std::size_t(C)), bits, symmetry, factor);
  return x;
}

std::string grid_label(Symmetry symmetry, double factor, std::initializer_list<std::int64_t> sizes) {
  return concat(symmetry == Symmetry::symmetric ? "_symmetric_" : "_asymmetric_", int(factor * 100), "_of_100",
                dims(sizes));
}

const Input kFactor = {{1}, Role::differentiated, Width::statistic};
constexpr double kDifferences = 10;  // dfactor sums (q - z) - x/s, a small difference of two numbers up to 2^bits
// In bf16 the GPU rounds between the two ops, the CPU in f64 does not: with 3 bits no element crosses a tie by that.
constexpr int kFusedBits = 3;

}  // namespace

OpCase fake_quant_case(std::int64_t R, std::int64_t C, int bits, Symmetry symmetry, double factor, ops::Form form) {
  return {"fake_quant" + grid_label(symmetry, factor, {R, C, bits}),
          {"fake_quant_forward", "fake_quant_backward"},
          {{{R, C}}, kFactor},
          [=] {
            Rng rng(kSeed);
            return rounded({draw_rows(rng, R, C, bits, symmetry, factor), {factor}});
          },
          [=](Context& ctx, Vars in) {
            return ops::fake_quant(ctx, in[0], {in[1], bits, symmetry, form});
          },
          8.0 * double(R * C),
          6.0 * double(R * C),
          kDifferences,
          [=](std::span<const Values> point) {
            return fake_quant_surrogate(point, R, C, bits, symmetry, [](std::span<const Values> in) { return in[0]; });
          }};
}

// x is a clear row over w: the norm scales rows, which moves nothing relative to their range.
OpCase rms_norm_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor) {
  const double eps = narrow_eps(C);
  return {"rms_norm_quant" + grid_label(symmetry, factor, {R, C}),
          {"rms_norm_quant_forward", "rms_norm_quant_backward"},
          {{{R, C}}, {{C}, Role::constant}, kFactor},
          [=] {
            Rng rng(kSeed);
            Values x = draw_rows(rng, R, C, kFusedBits, symmetry, factor), w(static_cast<std::size_t>(C));
            for (double& v : w) v = uniform(rng, 0.5, 1.5);
            for (std::size_t i = 0; i < x.size(); ++i) x[i] /= w[i % w.size()];
            return rounded({std::move(x), std::move(w), {factor}});
          },
          [=](Context& ctx, Vars in) {
            return ops::rms_norm_quant(ctx, in[0], in[1].value, eps, {in[2], kFusedBits, symmetry});
          },
          8.0 * double(R * C),
          10.0 * double(R * C),
          kDifferences,
          [=](std::span<const Values> point) {
            return fake_quant_surrogate(point, R, C, kFusedBits, symmetry, [=](std::span<const Values> in) {
              Values n = in[0];
              for (std::size_t r = 0; r < std::size_t(R); ++r) {
                const std::span row = std::span(n).subspan(r * std::size_t(C), std::size_t(C));
                double squares = 0;
                for (double x : row) squares += x * x;
                for (std::size_t c = 0; c < row.size(); ++c) row[c] *= in[1][c] / std::sqrt(squares / double(C) + eps);
              }
              return n;
            });
          }};
}

// The norm n is a clear row for which u = (n - b) / w has the mean 0: that of x = c u + m, c^2 (1 - var u) = eps.
OpCase layer_norm_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor) {
  constexpr double kEps = 0.5;  // c is near 1 with it
  return {"layer_norm_quant" + grid_label(symmetry, factor, {R, C}),
          {"layer_norm_quant_forward", "layer_norm_quant_backward"},
          {{{R, C}}, {{C}, Role::constant}, {{C}, Role::constant}, kFactor},
          [=] {
            Rng rng(kSeed);
            const std::size_t columns = std::size_t(C);
            Values x(std::size_t(R) * columns), w(columns), b(columns);
            for (double& v : w) v = uniform(rng, 3.5, 4.5);  // |u| below 1
            for (double& v : b) v = uniform(rng, -0.25, 0.25);
            for (std::size_t r = 0; r < std::size_t(R); ++r) {
              const std::span row = std::span(x).subspan(r * columns, columns);
              draw_row_around(rng, row, w, b, kFusedBits, symmetry, factor);
              double squares = 0;
              for (std::size_t c = 0; c < columns; ++c) {
                row[c] = (row[c] - b[c]) / w[c];
                squares += row[c] * row[c];
              }
              const double scale = std::sqrt(kEps / (1 - squares / double(C))), mean = uniform(rng, -0.1, 0.1);
              for (double& v : row) v = scale * v + mean;
            }
            return rounded({std::move(x), std::move(w), std::move(b), {factor}});
          },
          [=](Context& ctx, Vars in) {
            return ops::layer_norm_quant(ctx, in[0], in[1].value, in[2].value, kEps, {in[3], kFusedBits, symmetry});
          },
          8.0 * double(R * C),
          14.0 * double(R * C),
          kDifferences,
          [=](std::span<const Values> point) {
            return fake_quant_surrogate(point, R, C, kFusedBits, symmetry, [=](std::span<const Values> in) {
              Values n = in[0];
              for (std::size_t r = 0; r < std::size_t(R); ++r) {
                const std::span row = std::span(n).subspan(r * std::size_t(C), std::size_t(C));
                double sum = 0, squares = 0;
                for (double x : row) sum += x;
                const double mean = sum / double(C);
                for (double x : row) squares += (x - mean) * (x - mean);
                const double rstd = 1 / std::sqrt(squares / double(C) + kEps);
                for (std::size_t c = 0; c < row.size(); ++c) row[c] = (row[c] - mean) * rstd * in[1][c] + in[2][c];
              }
              return n;
            });
          }};
}

// f(x) is a clear row; its extremes are those of the first two elements and 0.
OpCase activation_quant_case(std::int64_t R, std::int64_t C, Activation kind, Symmetry symmetry, double factor) {
  require(kind == Activation::relu || kind == Activation::gelu, "activation_quant_case: relu or gelu");
  const auto f = [kind](double x) {
    return kind == Activation::relu ? std::max(x, 0.0) : x * std::erfc(-x / std::numbers::sqrt2) / 2;
  };
  return {(kind == Activation::relu ? "relu_quant" : "gelu_quant") + grid_label(symmetry, factor, {R, C}),
          {"activation_quant_forward", "activation_quant_backward"},
          {{{R, C}}, kFactor},
          [=] {
            Rng rng(kSeed);
            Values x(std::size_t(R * C));
            const std::size_t columns = std::size_t(C);
            for (std::size_t r = 0; r < std::size_t(R); ++r) {
              const std::span row = std::span(x).subspan(r * columns, columns);
              double most, least;
              const auto range = [&] {
                return ClearRange(columns == 1 ? 0 : f(least), f(most), kFusedBits, symmetry, factor);
              };
              do most = uniform(rng, 1, 3), least = uniform(rng, -0.9, -0.6);
              while (!range().is_clear());
              const auto fits = [&, of_row = range()](double v) {
                const double h = f(v);
                return std::abs(v) > 0.125 && h >= of_row.low && h <= of_row.high && of_row.is_clear(h);
              };
              for (double& v : row) do
                  v = uniform(rng, -3, 3);  // away from the kink of relu
                while (!fits(v));
              row[0] = most;
              if (columns > 1) row[1] = least;
            }
            return rounded({std::move(x), {factor}});
          },
          [=](Context& ctx, Vars in) {
            return ops::activation_quant(ctx, in[0], kind, {in[1], kFusedBits, symmetry});
          },
          8.0 * double(R * C),
          12.0 * double(R * C),
          kDifferences,
          [=](std::span<const Values> point) {
            return fake_quant_surrogate(point, R, C, kFusedBits, symmetry, [=](std::span<const Values> in) {
              Values h = in[0];
              for (double& v : h) v = f(v);
              return h;
            });
          }};
}

// up is a clear row over silu(gate).
OpCase gated_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor) {
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  return {"gated_quant" + grid_label(symmetry, factor, {R, C}),
          {"gated_quant_forward", "gated_quant_backward"},
          {{{R, C}}, {{R, C}}, kFactor},
          [=] {
            Rng rng(kSeed);
            Values up = draw_rows(rng, R, C, kFusedBits, symmetry, factor), gate(up.size());
            for (std::size_t i = 0; i < up.size(); ++i) {
              gate[i] = uniform(rng, 0.7, 2) * (rng.below(2) == 0 ? 1 : -1);
              up[i] /= silu(gate[i]);
            }
            return rounded({std::move(gate), std::move(up), {factor}});
          },
          [=](Context& ctx, Vars in) {
            return ops::gated_quant(ctx, in[0], in[1], {in[2], kFusedBits, symmetry});
          },
          12.0 * double(R * C),
          12.0 * double(R * C),
          kDifferences,
          [=](std::span<const Values> point) {
            return fake_quant_surrogate(point, R, C, kFusedBits, symmetry, [=](std::span<const Values> in) {
              Values h = in[1];
              for (std::size_t i = 0; i < h.size(); ++i) h[i] *= silu(in[0][i]);
              return h;
            });
          }};
}

OpCase clip_grid_case(std::int64_t out, std::int64_t groups, int bits, Symmetry symmetry, GridOutput wanted) {
  constexpr const char* kNames[] = {"_scale", "_zero", "_sum"};
  const Input constant{{out, groups}, Role::constant, Width::statistic};
  const Input learned{{out, groups}, Role::differentiated, Width::statistic};
  const std::vector<Input> in = {constant, constant, learned, learned};
  // s, and z before rounding; the straight-through round is 1 * that plus a constant.
  const auto grid = [bits, symmetry](std::span<const Values> x, std::size_t i) -> RowGrid {
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
            Rng rng(kSeed + 1);
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
                const RowGrid g = grid(x, i);
                y.push_back((wanted == GridOutput::zero ? 0 : g.step) +
                            (wanted == GridOutput::scale ? 0 : g.zero + residual[i]));
              }
              return y;
            };
          }};
}

}  // namespace cbq::test
