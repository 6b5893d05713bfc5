// Every kernel of this backend, with the signature that core/kernels.h gives it.
#pragma once

#include <type_traits>

#include "core/context.h"
#include "core/kernels.h"

namespace cbq::cpu {

template <class Pointer>
using Fn = std::remove_pointer_t<Pointer>;

Fn<decltype(Kernels::copy_from_host)> copy_from_host;
Fn<decltype(Kernels::copy_to_host)> copy_to_host;
Fn<decltype(Kernels::upload)> upload;
Fn<decltype(Kernels::download)> download;
Fn<decltype(Kernels::convert)> convert;
Fn<decltype(Kernels::fill)> fill;
Fn<decltype(Kernels::add)> add;
Fn<decltype(Kernels::mul)> mul;
Fn<decltype(Kernels::scale)> scale;
Fn<decltype(Kernels::scaled_exp)> scaled_exp;
Fn<decltype(Kernels::clamp)> clamp;
Fn<decltype(Kernels::scale_rows)> scale_rows;
Fn<decltype(Kernels::scale_columns)> scale_columns;
Fn<decltype(Kernels::column_sum)> column_sum;
Fn<decltype(Kernels::column_range)> column_range;
Fn<decltype(Kernels::mean_forward)> mean_forward;
Fn<decltype(Kernels::mean_backward)> mean_backward;
Fn<decltype(Kernels::argmax_rows)> argmax_rows;
Fn<decltype(Kernels::sort_magnitudes)> sort_magnitudes;
Fn<decltype(Kernels::count_non_finite)> count_non_finite;
Fn<decltype(Kernels::count_different)> count_different;
Fn<decltype(Kernels::matmul)> matmul;
Fn<decltype(Kernels::matmul_integers)> matmul_integers;
Fn<decltype(Kernels::embedding_forward)> embedding_forward;
Fn<decltype(Kernels::embedding_backward)> embedding_backward;
Fn<decltype(Kernels::rms_norm_forward)> rms_norm_forward;
Fn<decltype(Kernels::rms_norm_backward)> rms_norm_backward;
Fn<decltype(Kernels::layer_norm_forward)> layer_norm_forward;
Fn<decltype(Kernels::layer_norm_backward)> layer_norm_backward;
Fn<decltype(Kernels::rope)> rope;
Fn<decltype(Kernels::attention_forward)> attention_forward;
Fn<decltype(Kernels::attention_backward)> attention_backward;
Fn<decltype(Kernels::softmax_forward)> softmax_forward;
Fn<decltype(Kernels::softmax_backward)> softmax_backward;
Fn<decltype(Kernels::activation_forward)> activation_forward;
Fn<decltype(Kernels::activation_backward)> activation_backward;
Fn<decltype(Kernels::gated_forward)> gated_forward;
Fn<decltype(Kernels::gated_backward)> gated_backward;
Fn<decltype(Kernels::fake_quant_forward)> fake_quant_forward;
Fn<decltype(Kernels::fake_quant_backward)> fake_quant_backward;
Fn<decltype(Kernels::rms_norm_quant_forward)> rms_norm_quant_forward;
Fn<decltype(Kernels::rms_norm_quant_backward)> rms_norm_quant_backward;
Fn<decltype(Kernels::layer_norm_quant_forward)> layer_norm_quant_forward;
Fn<decltype(Kernels::layer_norm_quant_backward)> layer_norm_quant_backward;
Fn<decltype(Kernels::activation_quant_forward)> activation_quant_forward;
Fn<decltype(Kernels::activation_quant_backward)> activation_quant_backward;
Fn<decltype(Kernels::gated_quant_forward)> gated_quant_forward;
Fn<decltype(Kernels::gated_quant_backward)> gated_quant_backward;
Fn<decltype(Kernels::quantise_weight_forward)> quantise_weight_forward;
Fn<decltype(Kernels::quantise_weight_backward)> quantise_weight_backward;
Fn<decltype(Kernels::weight_codes)> weight_codes;
Fn<decltype(Kernels::dequantise_weight)> dequantise_weight;
Fn<decltype(Kernels::pack_codes)> pack_codes;
Fn<decltype(Kernels::unpack_codes)> unpack_codes;
Fn<decltype(Kernels::start_grid)> start_grid;
Fn<decltype(Kernels::clip_grid_forward)> clip_grid_forward;
Fn<decltype(Kernels::clip_grid_backward)> clip_grid_backward;
Fn<decltype(Kernels::cholesky_of_inverse)> cholesky_of_inverse;
Fn<decltype(Kernels::gptq_weights)> gptq_weights;
Fn<decltype(Kernels::mse_forward)> mse_forward;
Fn<decltype(Kernels::mse_backward)> mse_backward;
Fn<decltype(Kernels::kl_forward)> kl_forward;
Fn<decltype(Kernels::kl_backward)> kl_backward;
Fn<decltype(Kernels::cross_entropy_forward)> cross_entropy_forward;
Fn<decltype(Kernels::cross_entropy_backward)> cross_entropy_backward;
Fn<decltype(Kernels::adamw_step)> adamw_step;
Fn<decltype(Kernels::sign_sgd_step)> sign_sgd_step;

}  // namespace cbq::cpu
