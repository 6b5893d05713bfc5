#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

// What a quantiser of activations saves.
struct SavedActivationQuantiser {
  Tensor factor;
  int bits;
  Symmetry symmetry;

  explicit SavedActivationQuantiser(const ActivationQuantiserVars& in)
      : factor(in.factor.value), bits(in.bits), symmetry(in.symmetry) {}
  ActivationQuantiser views() const { return {factor, bits, symmetry}; }
};

struct FakeQuantNode {
  Tensor x;
  SavedActivationQuantiser quantiser;
  std::int64_t saved_bytes() const { return bytes_of(x, quantiser.factor); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, x), dfactor = grads.make(1, quantiser.factor);
    ctx.kernels->fake_quant_backward(ctx, dx, dfactor, dy, x, quantiser.views());
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dfactor));
  }
};

struct RmsNormQuantNode {
  Tensor x, w, rstd, range;
  SavedActivationQuantiser quantiser;
  std::int64_t saved_bytes() const { return bytes_of(x, w, rstd, range, quantiser.factor); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    auto [dx, addend] = grads.take(0, x.shape(), x.dtype());
    Tensor dfactor = grads.make(1, quantiser.factor);
    ctx.kernels->rms_norm_quant_backward(ctx, dx, dfactor, dy, x, w, rstd, range, quantiser.views(), addend);
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dfactor));
  }
};

struct LayerNormQuantNode {
  Tensor x, w, b, mean, rstd, range;
  SavedActivationQuantiser quantiser;
  std::int64_t saved_bytes() const { return bytes_of(x, w, b, mean, rstd, range, quantiser.factor); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    auto [dx, addend] = grads.take(0, x.shape(), x.dtype());
    Tensor dfactor = grads.make(1, quantiser.factor);
    ctx.kernels->layer_norm_quant_backward(ctx, dx, dfactor, dy, x, w, b, mean, rstd, range, quantiser.views(), addend);
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dfactor));
  }
};

struct ActivationQuantNode {
  Tensor x, range;
  Activation kind;
  SavedActivationQuantiser quantiser;
  std::int64_t saved_bytes() const { return bytes_of(x, range, quantiser.factor); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dx = grads.make(0, x), dfactor = grads.make(1, quantiser.factor);
    ctx.kernels->activation_quant_backward(ctx, dx, dfactor, dy, x, range, kind, quantiser.views());
    grads.set(0, std::move(dx));
    grads.set(1, std::move(dfactor));
  }
};

struct GatedQuantNode {
  Tensor gate, up, range;
  SavedActivationQuantiser quantiser;
  std::int64_t saved_bytes() const { return bytes_of(gate, up, range, quantiser.factor); }
  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dgate = grads.make(0, gate), dup = grads.make(1, up), dfactor = grads.make(2, quantiser.factor);
    ctx.kernels->gated_quant_backward(ctx, dgate, dup, dfactor, dy, gate, up, range, quantiser.views());
    grads.set(0, std::move(dgate));
    grads.set(1, std::move(dup));
    grads.set(2, std::move(dfactor));
  }
};

void require_quantiser(const char* op, const ActivationQuantiserVars& in, DType dtype) {
  require_bits(op, in.bits, 16);
  require_tensor(op, "factor", in.factor.value, {1}, statistics_dtype(dtype));
  require(in.form == Form::values || integers_fit(in.bits, in.symmetry), op, ": integers of ", in.bits,
          " bits do not fit f8, which holds them up to ", kLargestInteger);
}

// Where a quantiser puts the integers of x, and their steps.
IntegerTensors make_integers(Context& ctx, const Tensor& x, Form form) {
  if (form == Form::values) return {};
  return {Tensor(ctx, x.shape(), DType::f8), Tensor(ctx, {x.rows()}, statistics_dtype(x.dtype()))};
}

Var with_integers(Var y, IntegerTensors integers) {
  y.integers = std::move(integers);
  return y;
}

}  // namespace

Var fake_quant(Context& ctx, const Var& x, const ActivationQuantiserVars& quantiser) {
  require_float("fake_quant", "x", x.value);
  require_quantiser("fake_quant", quantiser, x.value.dtype());
  const SavedActivationQuantiser saved(quantiser);
  Tensor y(ctx, x.shape(), x.value.dtype());
  IntegerTensors integers = make_integers(ctx, x.value, quantiser.form);
  ctx.kernels->fake_quant_forward(ctx, y, integers.views(), x.value, saved.views());
  return with_integers(Tape::record(std::move(y), {x, quantiser.factor}, FakeQuantNode{x.value, saved}),
                       std::move(integers));
}

Var rms_norm_quant(Context& ctx, const Var& x, const Tensor& w, double eps, const ActivationQuantiserVars& quantiser) {
  const DType dtype = x.value.dtype(), statistics = statistics_dtype(dtype);
  require_norm("rms_norm_quant", x.value, eps);
  require_tensor("rms_norm_quant", "w", w, {x.value.cols()}, dtype);
  require_quantiser("rms_norm_quant", quantiser, dtype);
  const SavedActivationQuantiser saved(quantiser);
  Tensor y(ctx, x.shape(), dtype), rstd(ctx, {x.value.rows()}, statistics), range(ctx, {x.value.rows(), 2}, statistics);
  IntegerTensors integers = make_integers(ctx, x.value, quantiser.form);
  ctx.kernels->rms_norm_quant_forward(ctx, y, integers.views(), rstd, range, x.value, w, eps, saved.views());
  return with_integers(Tape::record(std::move(y), {x, quantiser.factor},
                                    RmsNormQuantNode{x.value, w, std::move(rstd), std::move(range), saved}),
                       std::move(integers));
}

Var layer_norm_quant(Context& ctx, const Var& x, const Tensor& w, const Tensor& b, double eps,
                     const ActivationQuantiserVars& quantiser) {
  const DType dtype = x.value.dtype(), statistics = statistics_dtype(dtype);
  require_norm("layer_norm_quant", x.value, eps);
  require_tensor("layer_norm_quant", "w", w, {x.value.cols()}, dtype);
  require_tensor("layer_norm_quant", "b", b, {x.value.cols()}, dtype);
  require_quantiser("layer_norm_quant", quantiser, dtype);
  const SavedActivationQuantiser saved(quantiser);
  Tensor y(ctx, x.shape(), dtype), mean(ctx, {x.value.rows()}, statistics), rstd(ctx, mean.shape(), statistics);
  Tensor range(ctx, {x.value.rows(), 2}, statistics);
  IntegerTensors integers = make_integers(ctx, x.value, quantiser.form);
  ctx.kernels->layer_norm_quant_forward(ctx, y, integers.views(), mean, rstd, range, x.value, w, b, eps, saved.views());
  return with_integers(
      Tape::record(std::move(y), {x, quantiser.factor},
                   LayerNormQuantNode{x.value, w, b, std::move(mean), std::move(rstd), std::move(range), saved}),
      std::move(integers));
}

Var activation_quant(Context& ctx, const Var& x, Activation kind, const ActivationQuantiserVars& quantiser) {
  require_float("activation_quant", "x", x.value);
  const DType dtype = x.value.dtype();
  require_quantiser("activation_quant", quantiser, dtype);
  const SavedActivationQuantiser saved(quantiser);
  Tensor y(ctx, x.shape(), dtype), range(ctx, {x.value.rows(), 2}, statistics_dtype(dtype));
  IntegerTensors integers = make_integers(ctx, x.value, quantiser.form);
  ctx.kernels->activation_quant_forward(ctx, y, integers.views(), range, x.value, kind, saved.views());
  return with_integers(
      Tape::record(std::move(y), {x, quantiser.factor}, ActivationQuantNode{x.value, std::move(range), kind, saved}),
      std::move(integers));
}

Var gated_quant(Context& ctx, const Var& gate, const Var& up, const ActivationQuantiserVars& quantiser) {
  require_alike("gated_quant", gate.value, up.value);
  const DType dtype = gate.value.dtype();
  require_quantiser("gated_quant", quantiser, dtype);
  const SavedActivationQuantiser saved(quantiser);
  Tensor y(ctx, gate.shape(), dtype), range(ctx, {gate.value.rows(), 2}, statistics_dtype(dtype));
  IntegerTensors integers = make_integers(ctx, gate.value, quantiser.form);
  ctx.kernels->gated_quant_forward(ctx, y, integers.views(), range, gate.value, up.value, saved.views());
  return with_integers(Tape::record(std::move(y), {gate, up, quantiser.factor},
                                    GatedQuantNode{gate.value, up.value, std::move(range), saved}),
                       std::move(integers));
}

}  // namespace cbq::ops
