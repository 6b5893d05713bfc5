// The CUDA backend against the CPU backend: memory and matmul.
#include <cmath>

#include "tests/cases.h"
#include "tests/gpu.h"

namespace cbq::test {
namespace {

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

TEST(Cuda, RoundTripsEveryDType) {
  const std::vector<float> values = randn(33 * 31, 1);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8}) {
    const auto expected = to_host<float>(host(), from_host<float>(host(), {33, 31}, dtype, values));
    EXPECT_EQ(to_host<float>(gpu(), from_host<float>(gpu(), {33, 31}, dtype, values)), expected) << dtype;
  }
  EXPECT_EQ(to_host<float>(gpu(), full(gpu(), {5, 7}, DType::f32, 2.5)), std::vector<float>(35, 2.5f));
}

TEST(Cuda, MatmulAgreesWithTheCpu) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Trans ta : {Trans::no, Trans::yes})
      for (const Trans tb : {Trans::no, Trans::yes})
        for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{32, 64, 128}, {256, 384, 1024}, {8, 16, 24}}) {
          const Shape sa = ta == Trans::no ? Shape{m, k} : Shape{k, m},
                      sb = tb == Trans::no ? Shape{k, n} : Shape{n, k};
          const auto a = randn(m * k, 1), b = randn(k * n, 2), bias = randn(n, 3), start = randn(m * n, 4);
          const auto run = [&](Context& ctx, DType compute, Addend addend) {
            // Both sides start from inputs rounded to `dtype`, so that only the product's own error counts.
            const auto make = [&](Shape s, const std::vector<float>& v) {
              return convert(ctx, from_host<float>(ctx, s, dtype, v), compute);
            };
            const Tensor y = make({m, n}, start), added = addend == Addend::apart ? make({m, n}, start) : y;
            const Tensor bias_or_none = addend == Addend::in_place ? Tensor() : make({n}, bias);
            ctx.kernels->matmul(ctx, y, make(sa, a), ta, make(sb, b), tb, bias_or_none,
                                addend == Addend::none ? View() : View(added));
            return y;
          };
          for (const Addend addend : {Addend::none, Addend::apart, Addend::in_place}) {
            const auto expected = to_host<double>(host(), run(host(), DType::f64, addend));
            const auto first = to_host<float>(gpu(), run(gpu(), dtype, addend)),
                       second = to_host<float>(gpu(), run(gpu(), dtype, addend));
            const double error = relative_error(std::vector<double>(first.begin(), first.end()), expected);
            EXPECT_TRUE(error <= (dtype == DType::f32 ? 1e-6 : 3e-3))
                << error << " " << dtype << " " << m << " " << n << " " << k;
            EXPECT_EQ(first, second) << "two runs differ";
          }
        }
}

TEST(Cuda, CountsItsMemory) {
  const std::int64_t before = gpu().allocator->bytes_in_use();
  {
    const Tensor x(gpu(), {1024, 1024}, DType::f32);
    EXPECT_EQ(gpu().allocator->bytes_in_use(), before + (4 << 20));
  }
  EXPECT_EQ(gpu().allocator->bytes_in_use(), before);
}

TEST(Cuda, CountsDifferentCodes) {
  for (const std::int64_t size : {1, 31, 33, 257, 1000003}) {
    Rng rng(9);
    std::vector<std::uint8_t> a(static_cast<std::size_t>(size)), b(a);
    std::int32_t expected = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] = std::uint8_t(rng.below(3)), b[i] = std::uint8_t(rng.below(3));
      expected += a[i] != b[i];
    }
    const Tensor count(gpu(), {1}, DType::i32);
    gpu().kernels->count_different(gpu(), count, from_host<std::uint8_t>(gpu(), {size}, DType::u8, a),
                                   from_host<std::uint8_t>(gpu(), {size}, DType::u8, b));
    EXPECT_EQ(to_host<std::int32_t>(gpu(), count)[0], expected) << size;
  }
}

TEST(Cuda, MovesBetweenPageLockedMemoryAndTheDevice) {
  constexpr std::int64_t kCount = 1 << 20;
  const Storage host_memory(gpu().host_allocator, kCount * 4);
  const auto values = static_cast<float*>(host_memory.data());
  const auto expected = randn(kCount, 5);
  std::copy(expected.begin(), expected.end(), values);
  const Tensor x(gpu(), {kCount}, DType::f32);
  gpu().kernels->upload(gpu(), x.data(), values, kCount * 4);
  EXPECT_EQ(to_host<float>(gpu(), x), expected);
  gpu().synchronize();
  std::fill_n(values, kCount, 0.f);
  gpu().kernels->download(gpu(), values, x.data(), kCount * 4);
  gpu().synchronize();
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), values));
}

}  // namespace
}  // namespace cbq::test
