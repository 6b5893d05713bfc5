#include "bench/operands.h"

#include <algorithm>

#include "autograd/ops.h"
#include "core/kernels.h"
#include "core/rng.h"

namespace cbq::bench {
namespace {

constexpr std::int64_t kAligned = 8;  // elements: copies keep their alignment of 16 bytes
constexpr std::int64_t kPeriod = (1 << 22) + kAligned;

Tensor normal_values(Context& ctx) {
  Rng rng(1);
  std::vector<float> values(kPeriod);
  for (float& v : values) v = float(rng.normal());
  return from_host<float>(ctx, {kPeriod}, DType::f32, values);
}

}  // namespace

Normal::Normal(Context& ctx) : ctx_(ctx), f32_(normal_values(ctx)), bf16_(convert(ctx, f32_, DType::bf16)) {}

Tensor Normal::tensor(Shape shape, DType dtype, double deviation) {
  require(dtype == DType::f32 || dtype == DType::bf16, "bench: random numbers come in f32 and bf16, not ", dtype);
  const Tensor x(ctx_, shape, dtype), flat = x.reshape({x.count()}), &from = dtype == DType::f32 ? f32_ : bf16_;
  for (std::int64_t i = 0; i < x.count();) {
    const std::int64_t size = std::min(kPeriod - next_, x.count() - i);
    ctx_.kernels->scale(ctx_, flat.slice(0, i, i + size), from.slice(0, next_, next_ + size), deviation);
    i += size;
    next_ = (next_ + (size + kAligned - 1) / kAligned * kAligned) % kPeriod;
  }
  return x;
}

Var quantised(Context& ctx, const Tensor& x) {
  const Tensor factor = full(ctx, {1}, statistics_dtype(x.dtype()), 1);
  return ops::fake_quant(ctx, x, {factor, 4, Symmetry::symmetric, ops::Form::with_integers});
}

Tensor Operands::count(Tensor x, int passes) {
  bytes_ += passes * double(x.bytes());
  return x;
}

Tensor Operands::input(Shape shape, DType dtype, double deviation) {
  return count(normal_.tensor(shape, dtype, deviation), 1);
}

IntegerTensors Operands::integers(Shape shape) {
  IntegerTensors x = quantised(ctx, normal_.tensor(shape, DType::bf16, 1)).integers;
  count(x.integers, 1), count(x.step, 1);
  return x;
}

Tensor Operands::constant(Shape shape, double value) {
  return count(full(ctx, shape, DType::f32, value), 1);
}

Tensor Operands::output(Shape shape, DType dtype) {
  return count(Tensor(ctx, shape, dtype), 1);
}

Tensor Operands::updated(Shape shape, DType dtype, double value) {
  return count(full(ctx, shape, dtype, value), 2);
}

}  // namespace cbq::bench
