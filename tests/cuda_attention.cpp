// Attention on the GPU in bf16 against the CPU in float64: every path of tensor cores around the edges of its tiles,
// with operands that are columns of wider tensors.
#include <cmath>

#include "tests/check.h"
#include "tests/gpu.h"

namespace cbq::test {
namespace {

struct Size {
  std::int64_t B, Tq, Tk, H, Hkv, D;
};
// Head sizes of tensor cores: any multiple of 16 on mma.sync, 64 and 128 on wgmma.
const Size kSizes[] = {{1, 1, 1, 1, 1, 64},     {1, 1, 257, 2, 1, 128},    {2, 64, 64, 1, 1, 128},
                       {1, 65, 65, 4, 2, 64},   {1, 129, 129, 8, 2, 128},  {2, 200, 333, 4, 2, 128},
                       {1, 190, 449, 6, 3, 64}, {3, 257, 257, 2, 2, 128},  {1, 300, 301, 12, 4, 64},
                       {1, 129, 200, 2, 1, 96}, {1, 513, 513, 40, 40, 64}, {1, 640, 640, 40, 20, 128},
                       {1, 70, 135, 2, 1, 16}};

// q is columns of a wider tensor, k and v are halves of one.
struct Operands {
  Tensor wide, q, kv, d_o;

  // Equal values on every device.
  Operands(Context& ctx, const Size& s, DType dtype) {
    const auto make = [&](std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
      const Tensor bf16 = from_host<float>(host(), {rows, cols}, DType::bf16, randn(rows * cols, seed));
      return on(ctx, bf16, host(), dtype);
    };
    wide = make(s.B * s.Tq, s.H * s.D + 64, 1);
    q = wide.slice(1, 32, 32 + s.H * s.D);
    kv = make(s.B * s.Tk, 2 * s.Hkv * s.D, 2);
    d_o = make(s.B * s.Tq, s.H * s.D, 3);
  }
};

struct Results {
  Tensor o, lse, dq, dk, dv;
};

enum class Wanted { all, queries, keys, values };

Results attention(Context& ctx, const Size& s, DType dtype, Wanted wanted = Wanted::all) {
  const Operands x(ctx, s, dtype);
  const double scale = 1 / std::sqrt(double(s.D));
  const Tensor q = x.q.heads(s.B, s.H), k = x.kv.slice(1, 0, s.Hkv * s.D).heads(s.B, s.Hkv),
               v = x.kv.slice(1, s.Hkv * s.D, 2 * s.Hkv * s.D).heads(s.B, s.Hkv), d_o = x.d_o.heads(s.B, s.H);
  const auto output = [&](const Tensor& like) { return Tensor(ctx, like.shape(), dtype); };
  Results r{output(q), Tensor(ctx, {s.B, s.H, s.Tq}, statistics_dtype(dtype)), {}, {}, {}};
  const bool all = wanted == Wanted::all;
  if (all || wanted == Wanted::queries) r.dq = output(q);
  if (all || wanted == Wanted::keys) r.dk = output(k);
  if (all || wanted == Wanted::values) r.dv = output(v);
  const auto view = [](const Tensor& t) { return t ? View(t) : View{}; };
  ctx.kernels->attention_forward(ctx, r.o, r.lse, q, k, v, scale);
  ctx.kernels->attention_backward(ctx, view(r.dq), view(r.dk), view(r.dv), d_o, q, k, v, r.o, r.lse, scale);
  return r;
}

Values values_of(Context& ctx, const Tensor& x) {
  return to_host<double>(ctx, x);
}

class CudaAttention : public testing::TestWithParam<Size> {};

TEST_P(CudaAttention, AgreesWithTheCpu) {
  const Results got = attention(gpu(), GetParam(), DType::bf16), expected = attention(host(), GetParam(), DType::f64);
  const auto compare = [](const Tensor& a, const Tensor& b, double tol, const char* what) {
    expect_close(values_of(gpu(), a), values_of(host(), b), tol, what);
  };
  compare(got.o, expected.o, 1e-2, "o");
  compare(got.lse, expected.lse, 1e-5, "lse");
  compare(got.dq, expected.dq, 2e-2, "dq");
  compare(got.dk, expected.dk, 2e-2, "dk");
  compare(got.dv, expected.dv, 2e-2, "dv");
}

TEST_P(CudaAttention, EachResultAloneHasTheSameBits) {
  const Results all = attention(gpu(), GetParam(), DType::bf16);
  const auto values = [](const Tensor& t) { return values_of(gpu(), t); };
  EXPECT_EQ(values(all.dq), values(attention(gpu(), GetParam(), DType::bf16, Wanted::queries).dq));
  EXPECT_EQ(values(all.dk), values(attention(gpu(), GetParam(), DType::bf16, Wanted::keys).dk));
  EXPECT_EQ(values(all.dv), values(attention(gpu(), GetParam(), DType::bf16, Wanted::values).dv));
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaAttention, testing::ValuesIn(kSizes), [](const auto& test) {
  const Size& s = test.param;
  return concat("B", s.B, "_Tq", s.Tq, "_Tk", s.Tk, "_H", s.H, "_Hkv", s.Hkv, "_D", s.D);
});

}  // namespace
}  // namespace cbq::test
