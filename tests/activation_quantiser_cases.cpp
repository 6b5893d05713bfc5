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

// An op that makes rows of (R, C) and quantises them with kFusedBits. Its inputs are those that `make` gives the rows
// of, and then the factor.
struct FusedOp {
  std::string name, kernel;
  std::vector<Input> inputs;  // but the factor
  std::function<std::vector<Values>(Rng&)> draw;
  std::function<Var(Context&, Vars, const ops::ActivationQuantiserVars&)> run;
  HostFunction make;
  double matrices, flops;  // read or written; of an element
};
OpCase fused_case(const FusedOp& op, std::int64_t R, std::int64_t C, Symmetry symmetry, double factor) {
  OpCase c{
      op.name + grid_label(symmetry, factor, {R, C}),
      {op.kernel + "_forward", op.kernel + "_backward"},
      op.inputs,
      [=] {
        Rng rng(kSeed);
        std::vector<Values> in = op.draw(rng);
        in.push_back({factor});
        return rounded(std::move(in));
      },
      [=](Context& ctx, Vars in) {
        return op.run(ctx, in, {in.back(), kFusedBits, symmetry});
      },
      4 * op.matrices * double(R * C),
      op.flops * double(R * C),
      kDifferences,
      [=](std::span<const Values> point) { return fake_quant_surrogate(point, R, C, kFusedBits, symmetry, op.make); }};
  c.inputs.push_back(kFactor);
  return c;
}

// Calls change(row) for each row of C columns.
Values each_row(Values x, std::int64_t C, const std::function<void(std::span<double>)>& change) {
  const std::size_t columns = std::size_t(C);
  for (std::size_t at = 0; at < x.size(); at += columns) change(std::span(x).subspan(at, columns));
  return x;
}

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
  FusedOp op{"rms_norm_quant", "rms_norm_quant", {{{R, C}}, {{C}, Role::constant}}, {}, {}, {}, 2, 10};
  op.draw = [=](Rng& rng) -> std::vector<Values> {
    Values x = draw_rows(rng, R, C, kFusedBits, symmetry, factor), w(static_cast<std::size_t>(C));
    for (double& v : w) v = uniform(rng, 0.5, 1.5);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] /= w[i % w.size()];
    return {std::move(x), std::move(w)};
  };
  op.run = [=](Context& ctx, Vars in, const ops::ActivationQuantiserVars& q) {
    return ops::rms_norm_quant(ctx, in[0], in[1].value, eps, q);
  };
  op.make = [=](std::span<const Values> in) {
    return each_row(in[0], C, [&](std::span<double> row) {
      double squares = 0;
      for (double x : row) squares += x * x;
      for (std::size_t c = 0; c < row.size(); ++c) row[c] *= in[1][c] / std::sqrt(squares / double(C) + eps);
    });
  };
  return fused_case(op, R, C, symmetry, factor);
}

// The norm n is a clear row for which u = (n - b) / w has the mean 0: that of x = c u + m, c^2 (1 - var u) = eps.
OpCase layer_norm_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor) {
  constexpr double kEps = 0.5;  // c is near 1 with it
  const Input vector{{C}, Role::constant};
  FusedOp op{"layer_norm_quant", "layer_norm_quant", {{{R, C}}, vector, vector}, {}, {}, {}, 2, 14};
  op.draw = [=](Rng& rng) -> std::vector<Values> {
    const std::size_t columns = std::size_t(C);
    Values w(columns), b(columns);
    for (double& v : w) v = uniform(rng, 3.5, 4.5);  // |u| below 1
    for (double& v : b) v = uniform(rng, -0.25, 0.25);
    Values x = each_row(Values(std::size_t(R) * columns), C, [&](std::span<double> row) {
      draw_row_around(rng, row, w, b, kFusedBits, symmetry, factor);
      double squares = 0;
      for (std::size_t c = 0; c < columns; ++c) {
        row[c] = (row[c] - b[c]) / w[c];
        squares += row[c] * row[c];
      }
      const double scale = std::sqrt(kEps / (1 - squares / double(C))), mean = uniform(rng, -0.1, 0.1);
      for (double& v : row) v = scale * v + mean;
    });
    return {std::move(x), std::move(w), std::move(b)};
  };
  op.run = [=](Context& ctx, Vars in, const ops::ActivationQuantiserVars& q) {
    return ops::layer_norm_quant(ctx, in[0], in[1].value, in[2].value, kEps, q);
  };
  op.make = [=](std::span<const Values> in) {
    return each_row(in[0], C, [&](std::span<double> row) {
      double sum = 0, squares = 0;
      for (double x : row) sum += x;
      const double mean = sum / double(C);
      for (double x : row) squares += (x - mean) * (x - mean);
      const double rstd = 1 / std::sqrt(squares / double(C) + kEps);
      for (std::size_t c = 0; c < row.size(); ++c) row[c] = (row[c] - mean) * rstd * in[1][c] + in[2][c];
    });
  };
  return fused_case(op, R, C, symmetry, factor);
}

// f(x) is a clear row; its extremes are those of the first two elements and 0.
OpCase activation_quant_case(std::int64_t R, std::int64_t C, Activation kind, Symmetry symmetry, double factor) {
  require(kind == Activation::relu || kind == Activation::gelu, "activation_quant_case: relu or gelu");
  const auto f = [kind](double x) {
    return kind == Activation::relu ? std::max(x, 0.0) : x * std::erfc(-x / std::numbers::sqrt2) / 2;
  };
  FusedOp op{kind == Activation::relu ? "relu_quant" : "gelu_quant", "activation_quant", {{{R, C}}}, {}, {}, {}, 2, 12};
  op.draw = [=](Rng& rng) -> std::vector<Values> {
    return {each_row(Values(std::size_t(R * C)), C, [&](std::span<double> row) {
      double most, least;
      const auto range = [&] {
        return ClearRange(row.size() == 1 ? 0 : f(least), f(most), kFusedBits, symmetry, factor);
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
      if (row.size() > 1) row[1] = least;
    })};
  };
  op.run = [=](Context& ctx, Vars in, const ops::ActivationQuantiserVars& q) {
    return ops::activation_quant(ctx, in[0], kind, q);
  };
  op.make = [=](std::span<const Values> in) {
    Values h = in[0];
    for (double& v : h) v = f(v);
    return h;
  };
  return fused_case(op, R, C, symmetry, factor);
}

// up is a clear row over silu(gate).
OpCase gated_quant_case(std::int64_t R, std::int64_t C, Symmetry symmetry, double factor) {
  const auto silu = [](double x) { return x / (1 + std::exp(-x)); };
  FusedOp op{"gated_quant", "gated_quant", {{{R, C}}, {{R, C}}}, {}, {}, {}, 3, 12};
  op.draw = [=](Rng& rng) -> std::vector<Values> {
    Values up = draw_rows(rng, R, C, kFusedBits, symmetry, factor), gate(up.size());
    for (std::size_t i = 0; i < up.size(); ++i) {
      gate[i] = uniform(rng, 0.7, 2) * (rng.below(2) == 0 ? 1 : -1);
      up[i] /= silu(gate[i]);
    }
    return {std::move(gate), std::move(up)};
  };
  op.run = [=](Context& ctx, Vars in, const ops::ActivationQuantiserVars& q) {
    return ops::gated_quant(ctx, in[0], in[1], q);
  };
  op.make = [=](std::span<const Values> in) {
    Values h = in[1];
    for (std::size_t i = 0; i < h.size(); ++i) h[i] *= silu(in[0][i]);
    return h;
  };
  return fused_case(op, R, C, symmetry, factor);
}

}  // namespace cbq::test
