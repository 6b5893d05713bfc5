// Differentiable operations. Each checks shapes, runs a kernel of core/kernels.h, where its formula stands, and records
// what its backward needs. "saves" lists the tensors kept until then. Shapes: R rows, C columns, as in core/kernels.h.
#pragma once

#include <optional>

#include "autograd/tape.h"
#include "core/kernel_args.h"

namespace cbq::ops {

// y (M,N) = op(a) op(b) + bias + addend (M,N). Saves a and b. A constant operand costs no gradient GEMM. a b^T of two
// operands with integers is a product of integers; its gradients are those of the values.
Var matmul(Context& ctx, const Var& a, Trans trans_a, const Var& b, Trans trans_b, const Var& bias = {},
           const Var& addend = {});
// y (R,out) = x (R,in) w (out,in)^T + bias + addend: a linear layer as checkpoints store it.
Var linear(Context& ctx, const Var& x, const Var& w, const Var& bias = {}, const Var& addend = {});
// Equal shapes. add saves nothing; mul saves both.
Var add(Context& ctx, const Var& a, const Var& b);
Var mul(Context& ctx, const Var& a, const Var& b);
Var scale(Context& ctx, const Var& x, double alpha);
// y = base * exp(x), base constant: a positive quantity learned relative to its start. Saves y.
Var scaled_exp(Context& ctx, const Tensor& base, const Var& x);
// Mean of all elements, shape (1). Saves x's shape.
Var mean(Context& ctx, const Var& x);
// Same elements in another float type; the gradient is rounded back. x itself where the types are equal.
Var cast(Context& ctx, const Var& x, DType dtype);
// Same elements, another shape; shares bytes.
Var reshape(Context& ctx, const Var& x, Shape shape);

// Row ids_r of the table; ids (R) i32. Saves ids.
Var embedding(Context& ctx, const Var& table /*(V,C)*/, const Tensor& ids);
Var rms_norm(Context& ctx, const Var& x, const Var& w, double eps);                  // saves x, w, rstd
Var layer_norm(Context& ctx, const Var& x, const Var& w, const Var& b, double eps);  // saves x, w, mean, rstd
// x (R, H*D), R = B*T; cos, sin (T, D/2) of the positions of the T tokens. Saves cos, sin.
Var rope(Context& ctx, const Var& x, const Tensor& cos, const Tensor& sin, std::int64_t batch, std::int64_t head_count);

struct AttentionShape {
  std::int64_t batch, heads, kv_heads;
};
// Causal attention: q (B*Tq, H*D), k and v (B*Tk, Hkv*D), scale 1/sqrt(D). Saves q, k, v, o, lse.
Var attention(Context& ctx, const Var& q, const Var& k, const Var& v, const AttentionShape& shape);
Var softmax(Context& ctx, const Var& x);                      // saves y
Var activation(Context& ctx, const Var& x, Activation kind);  // saves x
Var gated(Context& ctx, const Var& gate, const Var& up);      // silu(gate) * up; saves both

// What a quantiser gives: values, or values with their integers, for grids whose integers fit (integers_fit).
enum class Form { values, with_integers };

// The inputs of a quantiser of activations as Vars (core/kernel_args.h).
struct ActivationQuantiserVars {
  Var factor;  // (1)
  int bits;
  Symmetry symmetry;
  Form form = Form::values;
};
// Per-token fake quantisation with a learned factor on the dynamic range. Saves x, factor.
Var fake_quant(Context& ctx, const Var& x, const ActivationQuantiserVars& quantiser);
// fake_quant(rms_norm(x, w)) in one pass, w constant. Saves x, w, rstd, range, factor.
Var rms_norm_quant(Context& ctx, const Var& x, const Tensor& w, double eps, const ActivationQuantiserVars& quantiser);
// fake_quant(layer_norm(x, w, b)) in one pass, w and b constant. Saves x, w, b, mean, rstd, range, factor.
Var layer_norm_quant(Context& ctx, const Var& x, const Tensor& w, const Tensor& b, double eps,
                     const ActivationQuantiserVars& quantiser);
// fake_quant(activation(x, kind)) in one pass. Saves x, range, factor.
Var activation_quant(Context& ctx, const Var& x, Activation kind, const ActivationQuantiserVars& quantiser);
// fake_quant(gated(gate, up)) in one pass. Saves gate, up, range, factor.
Var gated_quant(Context& ctx, const Var& gate, const Var& up, const ActivationQuantiserVars& quantiser);
// The inputs of a weight quantiser as Vars (core/kernel_args.h). `w` may be learned; of dense and (a1, a2) at most one
// is set.
struct WeightQuantiserVars {
  Var w, scale, zero;
  int bits;
  Rounder rounder;
  Var dense, a1, a2;
  Tensor start_scale = {};   // a constant, or empty
  Form form = Form::values;  // with_integers: of one step a row, |q - z| up to kLargestInteger, rounders but `sigmoid`
  Tensor regulariser = {};   // (2), a constant of `sigmoid` alone, or empty
};
// w_hat (out, in). With a regulariser its backward adds lambda L_com to whatever loss the tape is asked for. Saves its
// inputs, not w_hat.
Var quantise_weight(Context& ctx, const WeightQuantiserVars& inputs);
struct Grid {
  Var scale, zero;
};
// The grid under learned clips low, high (out, in/G). Saves its inputs.
Grid clip_grid(Context& ctx, const Tensor& scale0, const Tensor& zero0, const Var& low, const Var& high, int bits,
               Symmetry symmetry);

Var mse(Context& ctx, const Var& a, const Var& b);  // (1); saves both
// (1): mean over rows of KL(softmax a || softmax b); saves both.
Var kl_divergence(Context& ctx, const Var& a, const Var& b);
// (1): mean over the rows of the negative log-likelihood of targets (R) i32. Saves logits, targets.
Var cross_entropy(Context& ctx, const Var& logits, const Tensor& targets);

}  // namespace cbq::ops
