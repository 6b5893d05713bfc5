#include "autograd/ops.h"
#include "autograd/ops/checks.h"
#include "core/kernels.h"

namespace cbq::ops {
namespace {

// Saves its inputs; optional ones may be empty.
struct QuantiseWeightNode {
  Tensor w, scale, zero, dense, a1, a2, start_scale, regulariser;
  int bits;
  Rounder rounder;

  explicit QuantiseWeightNode(const WeightQuantiserVars& in)
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

  WeightQuantiser quantiser() const {
    return {w, {scale, zero, bits}, rounder, {dense, a1, a2}, start_scale, regulariser};
  }
  std::int64_t saved_bytes() const { return bytes_of(w, scale, zero, dense, a1, a2, start_scale, regulariser); }

  void backward(Context& ctx, const Tensor& dw_hat, const Grads& grads) const {
    Tensor dw = grads.make(0, w), dscale = grads.make(1, scale), dzero = grads.make(2, zero);
    Tensor ddense = grads.make(3, dense), da1 = grads.make(4, a1), da2 = grads.make(5, a2);
    ctx.kernels->quantise_weight_backward(ctx, {dw, dscale, dzero, ddense, da1, da2}, dw_hat, quantiser());
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

Var quantise_weight(Context& ctx, const WeightQuantiserVars& inputs) {
  require_quantiser("quantise_weight", inputs);
  const QuantiseWeightNode node(inputs);
  Tensor w_hat(ctx, inputs.w.shape(), inputs.w.value.dtype());
  IntegerTensors integers;
  if (inputs.form == Form::with_integers)
    integers = {Tensor(ctx, inputs.w.shape(), DType::f8), inputs.scale.value.reshape({inputs.w.shape()[0]})};
  ctx.kernels->quantise_weight_forward(ctx, w_hat, integers.integers, node.quantiser());
  Var y =
      Tape::record(std::move(w_hat), {inputs.w, inputs.scale, inputs.zero, inputs.dense, inputs.a1, inputs.a2}, node);
  y.integers = std::move(integers);
  return y;
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
