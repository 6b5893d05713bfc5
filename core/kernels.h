// The contract of a backend: one function per kernel, one table per backend.
//
// Letters: B batch, T tokens, R = B*T rows, C channels, H heads, D head size, V vocabulary, G group size, K rank.
// Rules: outputs first, then inputs, then scalars. A kernel writes (=) its outputs and never accumulates, except into
// an `addend`: an empty View, or a matrix shaped as the output, which it may also be, that is added to the result
// before it is rounded. An output whose View is empty is not wanted and is skipped. Columns are contiguous; rows may be
// strided where the backend takes Rows or Heads. Floats are f32 or f64 on the CPU, f32 or bf16 on CUDA; `convert` takes
// every float type. What keeps f32 beside bf16 values: row statistics (rstd, mean, lse, range), losses, cos and sin,
// the inputs of weight quantisers and grids with their gradients, and all that optimisers read and write. Sums run in a
// fixed order: two runs give the same bits. NaN is never an argument of a comparison that decides silently: argmax_rows
// and column_range pass over it, sort_magnitudes puts it last, all else hands it on. Shapes are checked by the ops that
// call.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <span>

#include "core/kernel_args.h"

namespace cbq {

class Context;

struct Kernels {
  // ---- memory
  // Blocking copies between host memory and the device.
  void (*copy_from_host)(Context&, void* device, const void* host, std::int64_t bytes);
  void (*copy_to_host)(Context&, void* host, const void* device, std::int64_t bytes);
  // Copies in the queue's order between the device and memory of the context's host_allocator; the host does not wait.
  void (*upload)(Context&, void* device, const void* host, std::int64_t bytes);
  void (*download)(Context&, void* host, const void* device, std::int64_t bytes);
  // y = x, element by element, between any two float types, or between equal integer types.
  void (*convert)(Context&, View y, View x);
  void (*fill)(Context&, View y, double value);

  // ---- elementwise and reductions
  void (*add)(Context&, View y, View a, View b);                     // y = a + b
  void (*mul)(Context&, View y, View a, View b);                     // y = a * b
  void (*scale)(Context&, View y, View x, double alpha);             // y = alpha * x
  void (*scaled_exp)(Context&, View y, View base, View x);           // y = base * exp(x)
  void (*clamp)(Context&, View y, View x, double low, double high);  // y = min(max(x, low), high); NaN stays NaN
  void (*scale_rows)(Context&, View y, View x, View s /*(R)*/);      // y_rc = x_rc * s_r
  void (*scale_columns)(Context&, View y, View x, View s /*(C)*/);   // y_rc = x_rc * s_c
  void (*column_sum)(Context&, View y /*(C)*/, View x /*(R,C)*/);    // y_c = sum_r x_rc
  void (*column_range)(Context&, View low /*(C)*/, View high /*(C)*/, View x /*(R,C)*/);  // min and max over rows
  void (*mean_forward)(Context&, View y /*(1)*/, View x);                                 // y = mean of all elements
  void (*mean_backward)(Context&, View dx, View dy /*(1)*/);                              // dx = dy / count
  void (*argmax_rows)(Context&, View index /*(R) i32*/, View x /*(R,V)*/);                // lowest index among equals
  void (*sort_magnitudes)(Context&, View y /*(n)*/, View x /*n elements*/);               // |x| in ascending order
  void (*count_non_finite)(Context&, View count /*(1) i32*/, View x);  // NaN and infinities, capped at 2^31 - 1
  void (*count_different)(Context&, View count /*(1) i32*/, View a /*u8*/, View b);  // capped at 2^31 - 1

  // ---- matmul
  // y = op(a) op(b) + bias + addend; y (M,N), op(a) (M,K), op(b) (K,N), bias (N) or empty.
  void (*matmul)(Context&, View y, View a, Trans trans_a, View b, Trans trans_b, View bias, View addend);

  // y = a b^T + bias + addend of a (M,K), b (N,K): y_mn = step_m step_n sum_k a_mk b_nk + bias_n + addend_mn. Each sum
  // of integers is rounded once or not at all, where matmul multiplies rounded values.
  void (*matmul_integers)(Context&, View y, const IntegerRows& a, const IntegerRows& b, View bias, View addend);

  // ---- layers
  void (*embedding_forward)(Context&, View y /*(R,C)*/, View table /*(V,C)*/, View ids /*(R)*/);
  void (*embedding_backward)(Context&, View dtable /*(V,C)*/, View dy, View ids);
  // y = x * rstd * w, rstd = 1 / sqrt(mean_c(x^2) + eps)   (Zhang & Sennrich 2019, eq. 4)
  void (*rms_norm_forward)(Context&, View y, View rstd /*(R)*/, View x, View w /*(C)*/, double eps);
  // dx = rstd (w dy - x rstd^2 mean_c(w dy x)) + addend, dw = sum_r(dy x rstd). No addend where dw is wanted.
  void (*rms_norm_backward)(Context&, View dx, View dw, View dy, View x, View w, View rstd, View addend);
  // y = (x - mean) * rstd * w + b, rstd = 1 / sqrt(var_c(x) + eps), biased variance   (Ba et al. 2016)
  void (*layer_norm_forward)(Context&, View y, View mean /*(R)*/, View rstd /*(R)*/, View x, View w, View b,
                             double eps);
  // n = (x - mean) rstd: dx = rstd (w dy - mean_c(w dy) - n mean_c(w dy n)) + addend, dw = sum_r(dy n), db = sum_r(dy).
  // No addend where dw or db is wanted.
  void (*layer_norm_backward)(Context&, View dx, View dw, View db, View dy, View x, View w, View mean, View rstd,
                              View addend);
  // Pairs (x_i, x_{i+D/2}) of each head turned by the angle of token t; cos, sin (T, D/2). Su et al. 2021, eq. 34, in
  // the half-split order of Hugging Face. inverse turns back, which is the gradient. y may be x.
  void (*rope)(Context&, View y /*(B,T,H,D)*/, View x, View cos, View sin, Rotation rotation);
  // o = softmax(scale q k^T + causal mask) v; query i of Tq sees keys 0 .. Tk - Tq + i. Query head h reads key head
  // h / (H / Hkv). lse (B,H,Tq) = log sum exp of the masked scores; the scores themselves are never stored.
  void (*attention_forward)(Context&, View o /*(B,Tq,H,D)*/, View lse, View q, View k /*(B,Tk,Hkv,D)*/, View v,
                            double scale);
  // p = exp(scale q k^T - lse): dv = p^T do, ds = p (do v^T - rowsum(do o)), dq = scale ds k, dk = scale ds^T q
  void (*attention_backward)(Context&, View dq, View dk, View dv, View d_o, View q, View k, View v, View o, View lse,
                             double scale);
  void (*softmax_forward)(Context&, View y, View x);             // over columns
  void (*softmax_backward)(Context&, View dx, View dy, View y);  // dx = y (dy - sum_c dy y)
  void (*activation_forward)(Context&, View y, View x, Activation kind);
  void (*activation_backward)(Context&, View dx, View dy, View x, Activation kind);
  void (*gated_forward)(Context&, View y, View gate, View up);  // y = silu(gate) * up   (Shazeer 2020)
  void (*gated_backward)(Context&, View dgate, View dup, View dy, View gate, View up);

  // ---- quantisers
  // Per row: y = s (clip(round(x/s) + z) - z) on the grid of the row's range (kernel_args.h) times factor (1).
  // An all-zero row stays zero. `integers`, where wanted, are those of y: what fits kLargestInteger is exact.
  void (*fake_quant_forward)(Context&, View y, const IntegerRows& integers, View x,
                             const ActivationQuantiser& quantiser);
  // Straight-through, the row's range held constant: dx = dy where not clipped, else 0;
  // dfactor = sum dy (s/factor) ((q - z) - x/s where not clipped, (q - z) where clipped)   (LSQ, 1902.08153, eq. 3)
  void (*fake_quant_backward)(Context&, View dx, View dfactor /*(1)*/, View dy, View x,
                              const ActivationQuantiser& quantiser);
  // Both ops in one pass, where only the quantiser reads what lies in between: y = fake_quant(rms_norm(x, w)) with the
  // norm rounded to its type; range (R,2) f32: least and largest of each row of the norm. Gradients are those of the
  // two ops, with dn = m dy for dy of the norm. No dw: w is constant.
  void (*rms_norm_quant_forward)(Context&, View y, const IntegerRows& integers, View rstd /*(R)*/, View range, View x,
                                 View w /*(C)*/, double eps, const ActivationQuantiser& quantiser);
  void (*rms_norm_quant_backward)(Context&, View dx, View dfactor /*(1)*/, View dy, View x, View w, View rstd,
                                  View range, const ActivationQuantiser& quantiser, View addend);
  // y = fake_quant(layer_norm(x, w, b)), as above; b is constant too.
  void (*layer_norm_quant_forward)(Context&, View y, const IntegerRows& integers, View mean /*(R)*/, View rstd /*(R)*/,
                                   View range, View x, View w /*(C)*/, View b /*(C)*/, double eps,
                                   const ActivationQuantiser& quantiser);
  void (*layer_norm_quant_backward)(Context&, View dx, View dfactor /*(1)*/, View dy, View x, View w, View b, View mean,
                                    View rstd, View range, const ActivationQuantiser& quantiser, View addend);
  // y = fake_quant(activation(x, kind)), as above.
  void (*activation_quant_forward)(Context&, View y, const IntegerRows& integers, View range /*(R,2)*/, View x,
                                   Activation kind, const ActivationQuantiser& quantiser);
  void (*activation_quant_backward)(Context&, View dx, View dfactor /*(1)*/, View dy, View x, View range,
                                    Activation kind, const ActivationQuantiser& quantiser);
  // y = fake_quant(gated(gate, up)), as above.
  void (*gated_quant_forward)(Context&, View y, const IntegerRows& integers, View range /*(R,2)*/, View gate, View up,
                              const ActivationQuantiser& quantiser);
  void (*gated_quant_backward)(Context&, View dgate, View dup, View dfactor /*(1)*/, View dy, View gate, View up,
                               View range, const ActivationQuantiser& quantiser);
  // w_hat = s (clip(u + z, 0, 2^bits - 1) - z); integers (out,in) f8, where wanted: w_hat / s.
  void (*quantise_weight_forward)(Context&, View w_hat, View integers, const WeightQuantiser& quantiser);
  // m = 1 where not clipped, else 0. Straight-through for u in w; for s with u - w/s held constant where s0 = s, and
  // with u held constant where it is decided on a start_scale of its own; sigmoid through h':
  //   dscale = sum_group dw_hat (q - z - m w/s where s0 = s), dzero = sum_group dw_hat (-s) (1-m), dw = m s/s0 dw_hat
  //   doffset = m s dw_hat times 1 (straight_through), h' (sigmoid), 0 (sigmoid_hard), for sigmoid plus
  //   lambda dL_com/doffset of a regulariser, -2 lambda beta sign(2h-1) |2h-1|^(beta-1) h' / count;
  //   da1 = doffset a2^T, da2 = a1^T doffset
  void (*quantise_weight_backward)(Context&, const WeightQuantiserGrads& grads, View dw_hat,
                                   const WeightQuantiser& quantiser);
  // q = clip(u + z, 0, 2^bits - 1) with a sigmoid rounder hardened, and back: w_hat = s (q - z).
  void (*weight_codes)(Context&, View codes /*(out,in) u8*/, const WeightQuantiser& quantiser);
  void (*dequantise_weight)(Context&, View w_hat, View codes, const WeightGrid& grid);
  // Each row of codes as a stream of `bits` a code in 32-bit words (core/bitpack.h), and back. Codes are below 2^bits.
  void (*pack_codes)(Context&, View words /*(out, ceil(in bits / 32)) i32*/, View codes /*(out,in) u8*/, int bits);
  void (*unpack_codes)(Context&, View codes, View words, int bits);
  // Scale and zero of each row and group: `steps` clip ratios evenly in [min_ratio, 1] on the min-max range, the one
  // with the least squared rounding error (the largest ratio among equals). steps = 1 is min-max.
  void (*start_grid)(Context&, View scale /*(out,in/G)*/, View zero, View w, int bits, Symmetry symmetry,
                     double min_ratio, int steps);
  // The learned clips of AutoRound (2309.05516, eq. 5) on a start grid (scale0, zero0), all (out, in/G):
  // asymmetric: s = (high zmax - low zmin) s0 / (2^bits - 1) where zmin = -z0, zmax = 2^bits - 1 - z0; z = round(-low
  // zmin s0 / s) symmetric: s = high s0, z = z0. Gradient straight through the round of z; an empty dscale or dzero
  // counts as zero.
  void (*clip_grid_forward)(Context&, View scale, View zero, View scale0, View zero0, View low, View high, int bits,
                            Symmetry symmetry);
  void (*clip_grid_backward)(Context&, View dlow, View dhigh, View dscale, View dzero, View scale0, View zero0,
                             View low, View high, int bits, Symmetry symmetry);
  // GPTQ (2210.17323). u: upper triangle with inverse(h) = u^T u; h (n,n) symmetric. Error{failure} if not positive
  // definite.
  void (*cholesky_of_inverse)(Context&, View u, View h);
  // Column by column in the given order: q_j = nearest code of w_j, and the error (w_j - w_hat_j) / u_jj is taken from
  // the columns still to come along u_j. u belongs to h with rows and columns in that order. compensated (out,in) is
  // each w_j as it was rounded, in the dtype of w: its nearest codes are GPTQ's. w (out,in) is not changed.
  void (*gptq_weights)(Context&, View compensated, View w, const WeightGrid& grid, View u, View order /*(in) i32*/);

  // ---- losses
  void (*mse_forward)(Context&, View loss /*(1)*/, View a, View b);  // mean((a - b)^2)
  void (*mse_backward)(Context&, View da, View db, View dloss /*(1)*/, View a, View b);
  // Per row KL(softmax(a) || softmax(b)), over columns.
  void (*kl_forward)(Context&, View loss /*(R)*/, View a, View b);
  // p, q the softmaxes: da = dloss p (log p - log q - loss), db = dloss (q - p)
  void (*kl_backward)(Context&, View da, View db, View dloss /*(R)*/, View a, View b);
  // Per row log sum exp(logits) - logits[target]; rows with a target below 0 give 0.
  void (*cross_entropy_forward)(Context&, View loss /*(R)*/, View logits /*(R,V)*/, View targets /*(R) i32*/);
  void (*cross_entropy_backward)(Context&, View dlogits, View dloss /*(R)*/, View logits, View targets);

  // ---- optimisers; value, m, v of all tensors are updated in place, in as few launches as they fit in
  // m = beta1 m + (1-beta1) g, v = beta2 v + (1-beta2) g^2, value -= lr (m^ / (sqrt(v^) + epsilon) + weight_decay
  // value), m^ and v^ divided by 1 - beta^step   (Loshchilov & Hutter 2019, algorithm 2)
  void (*adamw_step)(Context&, std::span<const AdamTensor> tensors);
  void (*sign_sgd_step)(Context&, std::span<const SignTensor> tensors);  // value -= lr sign(grad)
};

// Entries of a table that a backend left out. A backend runs models when there is none.
inline std::int64_t missing_kernels(const Kernels& kernels) {
  using Entry = void (*)();
  const auto entries = std::bit_cast<std::array<Entry, sizeof(Kernels) / sizeof(Entry)>>(kernels);
  return std::count(entries.begin(), entries.end(), nullptr);
}

}  // namespace cbq
