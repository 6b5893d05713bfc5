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

// What a weight quantiser saves; optional inputs may be empty.
struct SavedQuantiser {
  Tensor w, scale, zero, dense, a1, a2, start_scale, regulariser;
  int bits;
  Rounder rounder;

  explicit SavedQuantiser(const WeightQuantiserVars& in)
      : w(in.w.value),
        scale(in.scale.value),
        zero(in.zero.value),
        dense(in.dense.value),
        a1(in.a1.value),
        a2(in.a2.value),
        start_scale(in.start_scale),
        regulariser(in.regulariser),
        bits(in.bits),
        rounder(in.rounder) {}
  std::int64_t bytes() const { return bytes_of(w, scale, zero, dense, a1, a2, start_scale); }
  WeightQuantiser views() const { return {w, {scale, zero, bits}, rounder, {dense, a1, a2}, start_scale, regulariser}; }
};

struct QuantiseWeightNode {
  SavedQuantiser saved;
  std::int64_t saved_bytes() const { return saved.bytes(); }
  void backward(Context& ctx, const Tensor& dw_hat, const Grads& grads) const {
    Tensor dw = grads.make(0, saved.w), dscale = grads.make(1, saved.scale), dzero = grads.make(2, saved.zero);
    Tensor ddense = grads.make(3, saved.dense), da1 = grads.make(4, saved.a1), da2 = grads.make(5, saved.a2);
    ctx.kernels->quantise_weight_backward(ctx, {dw, dscale, dzero, ddense, da1, da2}, dw_hat, saved.views());
    grads.set(0, std::move(dw));
    grads.set(1, std::move(dscale));
    grads.set(2, std::move(dzero));
    grads.set(3, std::move(ddense));
    grads.set(4, std::move(da1));
    grads.set(5, std::move(da2));
  }
};

// The kernel has two outputs and a node has one, so each output is a node that hands over an empty gradient for the
// other.
enum class GridOutput { scale, zero };

struct ClipGridNode {
  Tensor scale0, zero0, low, high;
  int bits;
  Symmetry symmetry;
  GridOutput output;

  std::int64_t saved_bytes() const { return bytes_of(scale0, zero0, low, high); }

  void backward(Context& ctx, const Tensor& dy, const Grads& grads) const {
    Tensor dlow = grads.make(0, low), dhigh = grads.make(1, high);
    const View dscale = output == GridOutput::scale ? View(dy) : View(),
               dzero = output == GridOutput::zero ? View(dy) : View();
    ctx.kernels->clip_grid_backward(ctx, dlow, dhigh, dscale, dzero, scale0, zero0, low, high, bits, symmetry);
    grads.set(0, std::move(dlow));
    grads.set(1, std::move(dhigh));
  }
};

void require_bits(const char* op, int bits, int most) {
  require(bits >= 2 && bits <= most, op, ": expected 2 to ", most, " bits, got ", bits);
}

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

void require_quantiser(const char* op, const WeightQuantiserVars& in) {
  require_bits(op, in.bits, 8);
  require_matrix(op, "w", in.w.value);
  const Shape& w = in.w.shape();
  const DType dtype = statistics_dtype(in.w.value.dtype());
  require_matrix(op, "scale", in.scale.value);
  const std::int64_t groups = in.scale.value.cols();
  require(in.scale.shape()[0] == w[0] && groups > 0 && w[1] % groups == 0, op, ": scale ", in.scale.shape(),
          " does not divide w ", w, " into one step size per row and group");
  require_tensor(op, "scale", in.scale.value, in.scale.shape(), dtype);
  require_tensor(op, "zero", in.zero.value, in.scale.shape(), dtype);
  if (in.start_scale) require_tensor(op, "start_scale", in.start_scale, in.scale.shape(), dtype);
  require(in.form == Form::values ||
              (groups == 1 && in.rounder != Rounder::sigmoid && integers_fit(in.bits, Symmetry::symmetric)),
          op, ": integers need up to 5 bits, one step a row and a rounder that gives integers, got ", in.bits,
          " bits and ", groups, " steps a row");
  if (in.regulariser) require_tensor(op, "regulariser", in.regulariser, {2}, dtype);
  require(!in.regulariser || in.rounder == Rounder::sigmoid, op, ": only the sigmoid rounder has a regulariser");
  require(bool(in.a1.value) == bool(in.a2.value), op, ": of the factors a1, a2 only one was given");
  require(!(in.dense.value && in.a1.value), op, ": a dense offset and factors a1, a2 exclude each other");
  if (in.dense.value) require_tensor(op, "dense", in.dense.value, w, dtype);
  if (in.a1.value) {
    require_matrix(op, "a1", in.a1.value);
    const std::int64_t rank = in.a1.value.cols();
    require_tensor(op, "a1", in.a1.value, {w[0], rank}, dtype);
    require_tensor(op, "a2", in.a2.value, {rank, w[1]}, dtype);
  }
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

Var quantise_weight(Context& ctx, const WeightQuantiserVars& inputs) {
  require_quantiser("quantise_weight", inputs);
  const SavedQuantiser saved(inputs);
  Tensor w_hat(ctx, inputs.w.shape(), inputs.w.value.dtype());
  IntegerTensors integers;
  if (inputs.form == Form::with_integers)
    integers = {Tensor(ctx, inputs.w.shape(), DType::f8), inputs.scale.value.reshape({inputs.w.shape()[0]})};
  ctx.kernels->quantise_weight_forward(ctx, w_hat, integers.integers, saved.views());
  return with_integers(
      Tape::record(std::move(w_hat), {inputs.w, inputs.scale, inputs.zero, inputs.dense, inputs.a1, inputs.a2},
                   QuantiseWeightNode{saved}),
      std::move(integers));
}

Grid clip_grid(Context& ctx, const Tensor& scale0, const Tensor& zero0, const Var& low, const Var& high, int bits,
               Symmetry symmetry) {
  require_bits("clip_grid", bits, 8);
  require_matrix("clip_grid", "scale0", scale0);
  require_tensor("clip_grid", "zero0", zero0, scale0.shape(), scale0.dtype());
  require_tensor("clip_grid", "low", low.value, scale0.shape(), scale0.dtype());
  require_tensor("clip_grid", "high", high.value, scale0.shape(), scale0.dtype());
  Tensor scale(ctx, scale0.shape(), scale0.dtype()), zero(ctx, scale0.shape(), scale0.dtype());
  ctx.kernels->clip_grid_forward(ctx, scale, zero, scale0, zero0, low.value, high.value, bits, symmetry);
  const auto record = [&](Tensor y, GridOutput output) {
    return Tape::record(std::move(y), {low, high},
                        ClipGridNode{scale0, zero0, low.value, high.value, bits, symmetry, output});
  };
  return {record(std::move(scale), GridOutput::scale), record(std::move(zero), GridOutput::zero)};
}

}  // namespace cbq::ops
