#include <algorithm>
#include <cmath>

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

// One row whose elements stay clear of rounding ties. The first two are its extremes.
void draw_row(Rng& rng, std::span<double> row, int bits, Symmetry symmetry, double factor) {
  const auto is_clear = [&](const RowGrid& grid, double x) { return tie_distance(x / (grid.step * factor)) > 0.05; };
  RowGrid grid;
  double low, high;
  do {
    low = uniform(rng, -3, -1), high = uniform(rng, 1, 3);
    if (row.size() == 1) low = 0;
    grid = row_grid(low, high, bits, symmetry);
  } while (!is_clear(grid, low) || !is_clear(grid, high) ||
           (symmetry == Symmetry::asymmetric && tie_distance(-low / grid.step) < 0.05));
  for (double& x : row) do
      x = uniform(rng, low, high);
    while (!is_clear(grid, x));
  row[0] = high;
  if (row.size() > 1) row[1] = low;
}

HostFunction fake_quant_surrogate(std::span<const Values> point, std::int64_t R, std::int64_t C, int bits,
                                  Symmetry symmetry) {
  struct Frozen {
    double step0, residual, clipped;  // step at factor 1; round(x/s) - x/s; q - z where clipped, NaN elsewhere
  };
  std::vector<Frozen> frozen;
  for (std::int64_t r = 0; r < R; ++r) {
    const std::span row = std::span(point[0]).subspan(std::size_t(r * C), std::size_t(C));
    const RowGrid grid = row_grid(std::min(0.0, *std::ranges::min_element(row)),
                                  std::max(0.0, *std::ranges::max_element(row)), bits, symmetry);
    const double s = grid.step * point[1][0];
    for (double x : row) {
      const double u = std::nearbyint(x / s), q = std::clamp(u + grid.zero, 0.0, levels(bits));
      frozen.push_back({grid.step, u - x / s, q == u + grid.zero ? NAN : q - grid.zero});
    }
  }
  return [frozen](std::span<const Values> in) {
    Values y;
    for (std::size_t i = 0; i < frozen.size(); ++i) {
      const double s = frozen[i].step0 * in[1][0];
      y.push_back(s * (std::isnan(frozen[i].clipped) ? in[0][i] / s + frozen[i].residual : frozen[i].clipped));
    }
    return y;
  };
}

}  // namespace

OpCase fake_quant_case(std::int64_t R, std::int64_t C, int bits, Symmetry symmetry, double factor) {
  return {concat("fake_quant_", symmetry == Symmetry::symmetric ? "symmetric" : "asymmetric", "_", int(factor * 100),
                 "_of_100", dims({R, C, bits})),
          {"fake_quant_forward", "fake_quant_backward"},
          {{{R, C}}, {{1}, Role::differentiated, Width::statistic}},
          [=] {
            Rng rng(kSeed);
            Values x(std::size_t(R * C));
            for (std::int64_t r = 0; r < R; ++r)
              draw_row(rng, std::span(x).subspan(std::size_t(r * C), std::size_t(C)), bits, symmetry, factor);
            return rounded({std::move(x), {factor}});
          },
          [=](Context& ctx, Vars in) { return ops::fake_quant(ctx, in[0], in[1], bits, symmetry); },
          8.0 * double(R * C),
          6.0 * double(R * C),
          10,  // dfactor sums (q - z) - x/s, a small difference of two numbers up to 2^bits
          [=](std::span<const Values> point) { return fake_quant_surrogate(point, R, C, bits, symmetry); }};
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
