// The quantisers as the formulas of core/kernels.h say them, element by element in long double, and random problems
// whose elements lie away from every tie and kink, so that f32 and f64 must make the same decisions.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/kernels.h"
#include "core/rng.h"
#include "core/tensor.h"
#include "cpu/open.h"
#include "tests/cases.h"

namespace cbq::test {

using Real = long double;
using Values = std::vector<double>;

inline Values random_values(Rng& rng, std::int64_t count, double spread) {
  Values x(static_cast<std::size_t>(count));
  for (double& v : x) v = double(float(spread * rng.normal()));
  return x;
}

// max |a - b| / (1 + max |b|); infinite when a number is not finite or the sizes differ.
inline double difference(const Values& a, const Values& b) {
  double worst = 0, largest = 1;
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!std::isfinite(a[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(a[i] - b[i])), largest = std::max(largest, std::abs(b[i]));
  }
  return worst / largest;
}

inline void expect_close(const Values& actual, const Values& expected, double tol, const std::string& what) {
  const double err = difference(actual, expected);
  if (!(err <= tol)) ADD_FAILURE() << what << ": differs by " << err << ", allowed " << tol;
}

enum class OffsetKind { none, dense, product };

struct RoundingSpec {
  std::int64_t out, in, groups, rank;
  int bits;
  Symmetry symmetry;
  Rounder rounder;
  OffsetKind offset;
  DecidedOn decided_on = DecidedOn::scale;
  double lambda = 0, beta = 2;  // of a regulariser where lambda is not 0
};

// f = w/s - floor(w/s) at the start; h_raw is h before its clip.
inline Real h_raw(Real fraction, Real d) {
  const Real p = (fraction + 0.1L) / 1.2L, v0 = std::log(p / (1 - p));
  return 1.2L / (1 + std::exp(-(v0 + d))) - 0.1L;
}

inline Real clip(Real x, Real low, Real high) {
  return std::min(std::max(x, low), high);
}

// One problem of a WeightQuantiser with its numbers on the host.
struct RoundingProblem {
  RoundingSpec spec;
  Values w, scale, zero, dense, a1, a2;
  Values start = {};  // start_scale, or empty

  std::size_t group_of(std::size_t i) const {
    const std::size_t in = std::size_t(spec.in), groups = std::size_t(spec.groups);
    return i / in * groups + i % in / (in / groups);
  }
  Real offset(std::size_t i) const {
    if (spec.offset == OffsetKind::none) return 0;
    if (spec.offset == OffsetKind::dense) return dense[i];
    const std::size_t in = std::size_t(spec.in), rank = std::size_t(spec.rank);
    Real d = 0;
    for (std::size_t k = 0; k < rank; ++k) d += Real(a1[i / in * rank + k]) * Real(a2[k * in + i % in]);
    return d;
  }
  // Step size on which weight i is decided.
  double decides(std::size_t i) const { return (start.empty() ? scale : start)[group_of(i)]; }
  Real ratio(std::size_t i) const { return Real(w[i]) / Real(decides(i)); }
  Real fraction(std::size_t i) const { return ratio(i) - std::floor(ratio(i)); }
  Real h(std::size_t i) const { return clip(h_raw(fraction(i), offset(i)), 0, 1); }
  Real u(std::size_t i) const {
    if (spec.rounder == Rounder::straight_through) return std::nearbyint(ratio(i) + offset(i));
    return std::floor(ratio(i)) + (spec.rounder == Rounder::sigmoid ? h(i) : h(i) >= 0.5L ? 1 : 0);
  }
  Real last() const { return Real((1 << spec.bits) - 1); }
  Real code(std::size_t i) const { return clip(u(i) + zero[group_of(i)], 0, last()); }
  bool inside(std::size_t i) const {
    const Real v = u(i) + zero[group_of(i)];
    return v >= 0 && v <= last();
  }
  // L_com
  Real regulariser() const {
    Real sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += 1 - std::pow(std::abs(2 * h(i) - 1), Real(spec.beta));
    return sum / Real(w.size());
  }
  Values w_hat() const {
    Values y(w.size());
    for (std::size_t i = 0; i < y.size(); ++i) y[i] = double(scale[group_of(i)] * (code(i) - zero[group_of(i)]));
    return y;
  }
  bool safe(std::size_t i) const {
    const Real margin = 2e-3L, f = fraction(i), x = h_raw(f, offset(i)), t = ratio(i) + offset(i);
    return f > margin && f < 1 - margin && std::abs(x) > margin && std::abs(x - 1) > margin &&
           std::abs(x - 0.5L) > margin && std::abs(t - std::floor(t) - 0.5L) > margin;
  }
};

// Codes cover the grid and lie beyond both ends of it.
inline RoundingProblem random_problem(const RoundingSpec& spec, std::uint64_t seed) {
  Rng rng(seed);
  RoundingProblem p{spec, {}, {}, {}, {}, {}, {}, {}};
  const double levels = double(1 << spec.bits);
  for (std::int64_t i = 0; i < spec.out * spec.groups; ++i) {
    p.scale.push_back(double(float(0.05 + 0.1 * rng.uniform())));
    p.zero.push_back(spec.symmetry == Symmetry::symmetric ? levels / 2 : std::floor(levels * rng.uniform()));
  }
  if (spec.decided_on == DecidedOn::start_scale)
    for (double s : p.scale) p.start.push_back(double(float(s * (0.7 + 0.6 * rng.uniform()))));
  if (spec.offset == OffsetKind::dense) p.dense = random_values(rng, spec.out * spec.in, 0.7);
  if (spec.offset == OffsetKind::product) {
    p.a1 = random_values(rng, spec.out * spec.rank, 0.5);
    p.a2 = random_values(rng, spec.rank * spec.in, 0.5);
  }
  p.w.resize(std::size_t(spec.out * spec.in));
  for (std::size_t i = 0; i < p.w.size(); ++i) do {
      p.w[i] = double(float(p.decides(i) * (levels * (1.4 * rng.uniform() - 0.2) - p.zero[p.group_of(i)])));
    } while (!p.safe(i));
  return p;
}

// The tensors of a problem on a device, and the gradients' tensors.
struct RoundingTensors {
  Tensor w, scale, zero, dense, a1, a2, start, regulariser;
  RoundingSpec spec;

  RoundingTensors(Context& ctx, const RoundingProblem& p, DType dtype) : spec(p.spec) {
    const auto make = [&](Shape shape, const Values& v) {
      return v.empty() ? Tensor() : from_host<double>(ctx, shape, dtype, v);
    };
    w = make({spec.out, spec.in}, p.w);
    scale = make({spec.out, spec.groups}, p.scale), zero = make({spec.out, spec.groups}, p.zero);
    start = make({spec.out, spec.groups}, p.start);
    dense = make({spec.out, spec.in}, p.dense);
    if (spec.lambda > 0) regulariser = make({2}, {spec.lambda, spec.beta});
    a1 = make({spec.out, spec.rank}, p.a1), a2 = make({spec.rank, spec.in}, p.a2);
  }
  // Fresh tensors of the same shapes.
  RoundingTensors like(Context& ctx) const {
    RoundingTensors t = *this;
    for (Tensor* x : {&t.w, &t.scale, &t.zero, &t.dense, &t.a1, &t.a2})
      if (*x) *x = Tensor(ctx, x->shape(), x->dtype());
    return t;
  }
  WeightGrid grid() const { return {scale, zero, spec.bits}; }
  WeightQuantiser quantiser() const { return {w, grid(), spec.rounder, {dense, a1, a2}, start, regulariser}; }
  WeightQuantiserGrads grads() const { return {w, scale, zero, dense, a1, a2}; }
};

// A tensor's bytes; none of an empty one.
inline std::vector<std::uint8_t> bytes_of(Context& ctx, const Tensor& x) {
  std::vector<std::uint8_t> bytes(std::size_t(x.bytes()));
  if (x) to_host_bytes(ctx, std::as_writable_bytes(std::span(bytes)), x);
  return bytes;
}

// w_hat, and the codes, of a problem's tensors on their device.
inline Tensor forward(Context& ctx, const RoundingTensors& t) {
  Tensor y(ctx, t.w.shape(), t.w.dtype());
  ctx.kernels->quantise_weight_forward(ctx, y, {}, t.quantiser());
  return y;
}

inline Tensor codes_of(Context& ctx, const RoundingTensors& t) {
  Tensor codes(ctx, t.w.shape(), DType::u8);
  ctx.kernels->weight_codes(ctx, codes, t.quantiser());
  return codes;
}

// Every combination of the choices over sizes around the vector widths, one and several groups, and rows of several
// pieces.
inline std::vector<RoundingSpec> rounding_specs() {
  std::vector<RoundingSpec> specs;
  const std::int64_t sizes[][3] = {{3, 1, 1}, {2, 31, 1}, {5, 32, 4}, {1, 33, 3}, {4, 257, 1}, {3, 600, 2}};
  int next = 0;
  for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid, Rounder::sigmoid_hard})
    for (OffsetKind offset : {OffsetKind::none, OffsetKind::dense, OffsetKind::product})
      for (int bits : {2, 3, 4, 5, 6, 8})
        for (Symmetry symmetry : {Symmetry::asymmetric, Symmetry::symmetric}) {
          const auto& size = sizes[next++ % 6];
          const std::int64_t rank = 1 + next % 11;
          specs.push_back({size[0], size[1], size[2], rank, bits, symmetry, rounder, offset});
          specs.push_back(
              {size[0], sizes[(next + bits) % 6][1], 1, rank, bits, symmetry, rounder, offset, DecidedOn::start_scale});
        }
  return specs;
}

// `spec` and, where the rounder takes one, copies of it with a regulariser whose gradients are as large as the others.
inline std::vector<RoundingSpec> with_regularisers(const RoundingSpec& spec, std::initializer_list<double> betas) {
  std::vector<RoundingSpec> specs = {spec};
  if (spec.rounder != Rounder::sigmoid) return specs;
  for (double beta : betas) {
    specs.push_back(spec);
    specs.back().lambda = double(spec.out * spec.in) / beta, specs.back().beta = beta;
  }
  return specs;
}

// Relative error of f32: the fraction of w/s0, which is up to 2^bits, is left with 2^-24 of it, and the power of a
// regulariser enlarges that beta times.
inline double f32_tolerance(const RoundingSpec& spec) {
  return spec.lambda > 0 ? std::max(1e-4, std::ldexp(spec.beta + 2, spec.bits - 23)) : 2e-5;
}

inline std::string describe(const RoundingSpec& s, DType dtype) {
  return concat(s.out, "x", s.in, ", groups ", s.groups, ", rank ", s.rank, ", bits ", s.bits, ", symmetry ",
                int(s.symmetry), ", rounder ", int(s.rounder), ", offset ", int(s.offset), ", decided on ",
                int(s.decided_on), ", lambda ", s.lambda, ", beta ", s.beta, ", ", dtype);
}

}  // namespace cbq::test
