// Weight quantisation on the CPU: values, codes and gradients against tests/quant_reference.h.
#include <functional>

#include "tests/quant_reference.h"

namespace cbq::test {
namespace {

const DType kFloats[] = {DType::f64, DType::f32};
double tolerance(DType t) {
  return t == DType::f64 ? 1e-12 : 2e-5;
}

std::unique_ptr<Context> open(int threads = 2) {
  return cpu::open(threads, FreshMemory::nan_bytes);
}

TEST(Rounding, ForwardIsTheFormula) {
  auto ctx = open();
  for (const RoundingSpec& spec : rounding_specs())
    for (DType dtype : kFloats) {
      const RoundingProblem p = random_problem(spec, 1);
      expect_close(to_host<double>(*ctx, forward(*ctx, RoundingTensors(*ctx, p, dtype))), p.w_hat(), tolerance(dtype),
                   describe(spec, dtype));
    }
}

// What is written to disk is what the last evaluation used, bit for bit.
TEST(Rounding, CodesAndValuesAgreeBitForBit) {
  auto ctx = open();
  for (RoundingSpec spec : rounding_specs())
    for (DType dtype : kFloats) {
      RoundingProblem p = random_problem(spec, 2);
      RoundingTensors t(*ctx, p, dtype);
      const Tensor codes = codes_of(*ctx, t);
      if (spec.rounder == Rounder::sigmoid) t.spec.rounder = p.spec.rounder = Rounder::sigmoid_hard;
      Tensor back(*ctx, t.w.shape(), dtype);
      ctx->kernels->dequantise_weight(*ctx, back, codes, t.grid());
      EXPECT_EQ(bytes_of(*ctx, back), bytes_of(*ctx, forward(*ctx, t))) << describe(spec, dtype);
      const auto actual = bytes_of(*ctx, codes);
      for (std::size_t i = 0; i < actual.size(); ++i)
        ASSERT_EQ(int(actual[i]), int(p.code(i))) << describe(spec, dtype) << " at " << i;
    }
}

// bits 2, z = 1: values s * {-1, 0, 1, 2}; s = 0.5.
TEST(Rounding, WorkedByHand) {
  auto ctx = open();
  const Values w = {-9, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1.0, 9};
  const std::int64_t n = std::int64_t(w.size());
  RoundingProblem p{{1, n, 1, 1, 2, Symmetry::asymmetric, Rounder::straight_through, OffsetKind::none},
                    w,
                    {0.5},
                    {1},
                    {},
                    {},
                    {},
                    {}};
  for (DType dtype : kFloats) {
    RoundingTensors t(*ctx, p, dtype);
    EXPECT_EQ(to_host<double>(*ctx, forward(*ctx, t)),
              (Values{-0.5, -0.5, -0.5, 0, 0, 0, 0.5, 1, 1, 1}));  // ties to even
    t.spec.rounder = Rounder::sigmoid_hard;
    EXPECT_EQ(to_host<double>(*ctx, forward(*ctx, t)), (Values{-0.5, -0.5, -0.5, 0, 0, 0.5, 0.5, 1, 1, 1}));  // ties up
    t.spec.rounder = Rounder::sigmoid;
    EXPECT_EQ(to_host<double>(*ctx, forward(*ctx, t)), (Values{-0.5, -0.5, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1}));
  }
}

TEST(Rounding, SigmoidStartsAtTheWeightAndItsLimitsAreFinite) {
  auto ctx = open();
  RoundingSpec spec{4, 600, 1, 1, 4, Symmetry::symmetric, Rounder::sigmoid, OffsetKind::dense};
  RoundingProblem p = random_problem(spec, 3);
  for (DType dtype : kFloats) {
    p.dense.assign(p.w.size(), 0.0);
    const Values start = to_host<double>(*ctx, forward(*ctx, RoundingTensors(*ctx, p, dtype)));
    for (std::size_t i = 0; i < start.size(); ++i) {
      const double ulp = dtype == DType::f32 ? 0x1p-23 : 0x1p-52;
      if (!p.inside(i)) continue;
      EXPECT_NEAR(start[i], p.w[i], 4 * ulp * 8 * p.scale[p.group_of(i)]);  // |u| <= 8
    }
    for (double limit : {1e30, -1e30, 31.0, -31.0}) {
      p.dense.assign(p.w.size(), limit);
      const Values end = to_host<double>(*ctx, forward(*ctx, RoundingTensors(*ctx, p, dtype)));
      for (std::size_t i = 0; i < end.size(); ++i) {
        const Real u = std::floor(p.ratio(i)) + (limit > 0 ? 1 : 0), z = p.zero[p.group_of(i)];
        EXPECT_NEAR(end[i], double(p.scale[p.group_of(i)] * (clip(u + z, 0, p.last()) - z)), 1e-6);
      }
    }
  }
}

std::vector<Values> to_host(Context& ctx, const RoundingTensors& g) {
  std::vector<Values> all;
  for (const Tensor* x : {&g.w, &g.scale, &g.zero, &g.dense, &g.a1, &g.a2})
    all.push_back(*x ? cbq::to_host<double>(ctx, *x) : Values());
  return all;
}

RoundingTensors backward(Context& ctx, const RoundingTensors& t, const Tensor& dw_hat) {
  RoundingTensors g = t.like(ctx);
  ctx.kernels->quantise_weight_backward(ctx, g.grads(), dw_hat, t.quantiser());
  return g;
}

TEST(Rounding, NanIsNotHidden) {
  auto ctx = open();
  for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid}) {
    RoundingProblem p = random_problem({2, 33, 1, 1, 4, Symmetry::symmetric, rounder, OffsetKind::dense}, 4);
    p.w[5] = std::nan(""), p.dense[40] = std::nan("");
    const Values y = to_host<double>(*ctx, forward(*ctx, RoundingTensors(*ctx, p, DType::f32)));
    EXPECT_TRUE(std::isnan(y[5]) && std::isfinite(y[6]) && std::isnan(y[40]));
    if (rounder != Rounder::sigmoid) continue;
    p.spec.lambda = 1, p.spec.beta = 3;
    const RoundingTensors t(*ctx, p, DType::f32);
    const Values dense = to_host(*ctx, backward(*ctx, t, full(*ctx, t.w.shape(), DType::f32, 0)))[3];
    EXPECT_TRUE(std::isnan(dense[5]) && std::isfinite(dense[6]) && std::isnan(dense[40]));
  }
}

// Values of w_hat around a base point, its roundings frozen: u = w/s + r, the learned part smooth, the clip decided.
struct Surrogate {
  RoundingProblem base;
  Real operator()(const RoundingProblem& x, std::size_t i) const {
    const Real s = x.scale[x.group_of(i)], z = x.zero[x.group_of(i)];
    if (!base.inside(i)) return s * (base.code(i) - z);
    Real learned = 0;
    if (base.spec.rounder == Rounder::straight_through) learned = x.offset(i) - base.offset(i);
    if (base.spec.rounder == Rounder::sigmoid) learned = clip(h_raw(base.fraction(i), x.offset(i)), 0, 1) - base.h(i);
    return s * (x.ratio(i) + (base.u(i) - base.ratio(i)) + learned);
  }
  // <dy, w_hat>, and L_com as a function of the offset alone: s and V0 are held constant there.
  Real objective(const RoundingProblem& x, const Values& dy) const {
    Real sum = 0;
    for (std::size_t i = 0; i < dy.size(); ++i) sum += dy[i] * (*this)(x, i);
    if (base.spec.lambda == 0) return sum;
    RoundingProblem moved = base;
    moved.dense = x.dense, moved.a1 = x.a1, moved.a2 = x.a2;
    return sum + base.spec.lambda * moved.regulariser();
  }
};

using Part = Values RoundingProblem::*;
const Part kParts[] = {&RoundingProblem::w,     &RoundingProblem::scale, &RoundingProblem::zero,
                       &RoundingProblem::dense, &RoundingProblem::a1,    &RoundingProblem::a2};

// d/dt of value(p + t direction) at 0 by central differences; one direction per part, so that no part hides another.
void check_gradients(const RoundingProblem& p, const std::vector<Values>& gradients,
                     const std::function<Real(const RoundingProblem&)>& value, double tol, const std::string& what) {
  Rng rng(11);
  for (std::size_t part = 0; part < 6; ++part) {
    const Values& at = p.*kParts[part];
    if (at.empty() || gradients[part].empty()) continue;
    const Values direction = random_values(rng, std::int64_t(at.size()), 1);
    const double step = 1e-6;
    RoundingProblem plus = p, minus = p;
    Real analytic = 0;
    for (std::size_t i = 0; i < at.size(); ++i) {
      (plus.*kParts[part])[i] += step * direction[i], (minus.*kParts[part])[i] -= step * direction[i];
      analytic += Real(gradients[part][i]) * direction[i];
    }
    const Real numeric = (value(plus) - value(minus)) / (2 * step),
               err = std::abs(analytic - numeric) / std::max(1.0L, std::abs(numeric));
    if (!(err <= tol))
      ADD_FAILURE() << what << ": part " << part << ", analytic " << analytic << ", numeric " << numeric;
  }
}

// Of <dw_hat, w_hat>, and of lambda L_com where there is a regulariser.
TEST(Rounding, GradientsAreThoseOfTheFrozenSurrogate) {
  auto ctx = open();
  for (const RoundingSpec& plain : rounding_specs())
    for (const RoundingSpec& spec : with_regularisers(plain, {20, 2, 7.3})) {
      const Surrogate surrogate{random_problem(spec, 5)};
      const RoundingProblem& p = surrogate.base;
      Rng rng(6);
      const Values dy = random_values(rng, spec.out * spec.in, 1);
      const RoundingTensors t(*ctx, p, DType::f64), t32(*ctx, p, DType::f32);
      const auto g = to_host(*ctx, backward(*ctx, t, from_host<double>(*ctx, t.w.shape(), DType::f64, dy)));
      check_gradients(
          p, g, [&](const RoundingProblem& x) { return surrogate.objective(x, dy); }, 1e-7, describe(spec, DType::f64));
      const auto g32 = to_host(*ctx, backward(*ctx, t32, from_host<double>(*ctx, t.w.shape(), DType::f32, dy)));
      for (std::size_t part = 0; part < 6; ++part)
        expect_close(g32[part], g[part], f32_tolerance(spec), describe(spec, DType::f32));
    }
}

TEST(Rounding, UnwantedGradientsAreSkipped) {
  auto ctx = open();
  const RoundingProblem p =
      random_problem({5, 33, 3, 5, 3, Symmetry::asymmetric, Rounder::sigmoid, OffsetKind::product}, 7);
  const RoundingTensors t(*ctx, p, DType::f32);
  const Tensor dy = full(*ctx, t.w.shape(), DType::f32, 0.5);
  const RoundingTensors all = backward(*ctx, t, dy);
  RoundingTensors one = t.like(*ctx);
  ctx->kernels->quantise_weight_backward(*ctx, {{}, {}, {}, {}, one.a1, {}}, dy, t.quantiser());
  ctx->kernels->quantise_weight_backward(*ctx, {{}, {}, {}, {}, {}, one.a2}, dy, t.quantiser());
  ctx->kernels->quantise_weight_backward(*ctx, {{}, one.scale, {}, {}, {}, {}}, dy, t.quantiser());
  EXPECT_EQ(bytes_of(*ctx, one.a1), bytes_of(*ctx, all.a1));
  EXPECT_EQ(bytes_of(*ctx, one.a2), bytes_of(*ctx, all.a2));
  EXPECT_EQ(bytes_of(*ctx, one.scale), bytes_of(*ctx, all.scale));
}

// Large enough for threads to start.
TEST(Rounding, SameBitsForEveryNumberOfThreads) {
  for (Rounder rounder : {Rounder::straight_through, Rounder::sigmoid}) {
    RoundingProblem p = random_problem({301, 257, 1, 11, 4, Symmetry::asymmetric, rounder, OffsetKind::product}, 10);
    if (rounder == Rounder::sigmoid) p.spec.lambda = 1e4, p.spec.beta = 5;
    std::vector<std::vector<std::uint8_t>> expected;
    for (int threads : {1, 1, 2, 5}) {
      auto ctx = open(threads);
      const RoundingTensors t(*ctx, p, DType::f32);
      const Tensor y = forward(*ctx, t);
      const RoundingTensors g = backward(*ctx, t, y);
      std::vector<std::vector<std::uint8_t>> got;
      for (const Tensor* x : {&y, &g.w, &g.scale, &g.zero, &g.a1, &g.a2}) got.push_back(bytes_of(*ctx, *x));
      if (expected.empty()) expected = got;
      EXPECT_EQ(got, expected) << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace cbq::test
