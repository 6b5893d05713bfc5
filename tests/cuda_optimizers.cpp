// Optimisers on the GPU against the CPU, and many tensors in one step against one call a tensor.
#include "tests/cuda_numbers.h"

namespace cbq::test {
namespace {

// Three steps, and the last value, m and v.
std::array<Values, 3> adamw(Context& ctx, DType dtype, std::int64_t n, std::int64_t offset) {
  const auto start = [&](std::uint64_t seed, double deviation) {
    return convert(ctx, from_host<float>(ctx, {n + offset}, DType::f32, randn(n + offset, seed, deviation)), dtype)
        .slice(0, offset, n + offset);
  };
  const Tensor value = start(1, 1), m = copy(ctx, start(2, 0.1)), v = full(ctx, {n}, dtype, 0.01);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const Tensor grad = start(std::uint64_t(10 + step), 1);
    const std::vector<AdamTensor> update = {{value, m, v, grad, {1e-2, 0.9, 0.95, 1e-8, 0.1, step}}};
    ctx.kernels->adamw_step(ctx, update);
  }
  return {numbers(ctx, value), numbers(ctx, m), numbers(ctx, v)};
}

TEST(CudaOptimizers, AdamWStep) {
  for (const std::int64_t n : {1, 31, 33, 256, 257, 100000})
    for (const std::int64_t offset : {0, 1}) {  // 1: no 16-byte packs
      const auto actual = adamw(gpu(), DType::f32, n, offset), expected = adamw(host(), DType::f64, n, offset);
      for (std::size_t i = 0; i < 3; ++i)
        expect_close(actual[i], expected[i], tolerance(DType::f32), concat("output ", i, ", n ", n, " + ", offset));
    }
  const Tensor x = full(gpu(), {3}, DType::f32, 1);
  const std::vector<AdamTensor> before_the_first = {{x, x, x, x, {1e-2, 0.9, 0.95, 1e-8, 0.1, 0}}};
  EXPECT_THROW(gpu().kernels->adamw_step(gpu(), before_the_first), Error);
}

TEST(CudaOptimizers, SignSgdStep) {
  for (const std::int64_t n : {1, 31, 33, 256, 257, 100000}) {
    std::vector<float> gradient = randn(n, 2);
    for (std::size_t i = 0; i < gradient.size(); i += 3) gradient[i] = i % 2 ? 0.f : -0.f;
    if (n > 1) gradient[1] = kNan;
    const auto run = [&](Context& ctx) {
      const Tensor value = from_host<float>(ctx, {n}, DType::f32, randn(n, 1)),
                   grad = from_host<float>(ctx, {n}, DType::f32, gradient);
      const std::vector<SignTensor> update = {{value, grad, 0.125}};
      ctx.kernels->sign_sgd_step(ctx, update);
      return to_host<float>(ctx, value);
    };
    expect_same(run(gpu()), run(host()), concat("n ", n));
  }
}

// More tensors than a launch takes, small, large, misaligned and empty: the bits of one call a tensor.
TEST(CudaOptimizers, ManyTensorsInOneStep) {
  Context& ctx = gpu();
  struct Learned {
    Tensor value, m, v, grad;
  };
  const auto make = [&] {
    std::vector<Learned> all;
    for (const std::int64_t n : {1, 0, 31, 1024, 100000, 257})
      for (std::int64_t i = 0; i < 25; ++i) {
        const auto values = [&](std::uint64_t seed) {
          const std::int64_t offset = i % 2;
          return from_host<float>(ctx, {n + offset}, DType::f32, randn(n + offset, seed + std::uint64_t(i)))
              .slice(0, offset, n + offset);
        };
        all.push_back({values(100), values(200), full(ctx, {n}, DType::f32, 0.01), values(300)});
      }
    return all;
  };
  const auto numbers_of = [&](const std::vector<Learned>& all) {
    std::vector<std::vector<std::byte>> bytes;
    for (const Learned& l : all)
      for (const Tensor& x : {l.value, l.m, l.v}) bytes.push_back(bytes_of(ctx, copy(ctx, x)));
    return bytes;
  };
  const auto adam = [](const Learned& l, std::size_t i) {
    return AdamTensor{l.value, l.m, l.v, l.grad, {1e-2, 0.9, 0.95, 1e-8, 0.1, std::int64_t(i % 3 + 1)}, -1, 0.5};
  };
  const auto sign = [](const Learned& l, std::size_t i) {
    return SignTensor{l.value, l.grad, 0.125 * double(i % 5), -0.75, 1};
  };
  const std::vector<Learned> together = make(), alone = make();
  std::vector<AdamTensor> adamw;
  std::vector<SignTensor> signs;
  for (std::size_t i = 0; i < together.size(); ++i) {
    adamw.push_back(adam(together[i], i));
    signs.push_back(sign(together[i], i));
    const std::vector<AdamTensor> one_adamw = {adam(alone[i], i)};
    ctx.kernels->adamw_step(ctx, one_adamw);
  }
  ctx.kernels->adamw_step(ctx, adamw);
  EXPECT_EQ(numbers_of(together), numbers_of(alone));
  for (std::size_t i = 0; i < alone.size(); ++i) {
    const std::vector<SignTensor> one_sign = {sign(alone[i], i)};
    ctx.kernels->sign_sgd_step(ctx, one_sign);
  }
  ctx.kernels->sign_sgd_step(ctx, signs);
  EXPECT_EQ(numbers_of(together), numbers_of(alone));
}

TEST(CudaOptimizers, NothingToDo) {
  Context& ctx = gpu();
  const Tensor empty(ctx, {0}, DType::f32);
  const std::vector<AdamTensor> adamw = {{empty, empty, empty, empty, {1e-2, 0.9, 0.95, 1e-8, 0.1, 1}}};
  ctx.kernels->adamw_step(ctx, adamw);
  const std::vector<SignTensor> sign_sgd = {{empty, empty, 0.1}};
  ctx.kernels->sign_sgd_step(ctx, sign_sgd);
  ctx.kernels->adamw_step(ctx, {});
  ctx.kernels->sign_sgd_step(ctx, {});
}

}  // namespace
}  // namespace cbq::test
