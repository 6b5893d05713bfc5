#include "cpu/open.h"

#include <cblas.h>
#include <omp.h>

#include <fstream>
#include <limits>
#include <string>

#include "cpu/backend.h"

namespace cbq::cpu {
namespace {

const Kernels kKernels = {
    .copy_from_host = copy_from_host,
    .copy_to_host = copy_to_host,
    .upload = upload,
    .download = download,
    .convert = convert,
    .fill = fill,
    .add = add,
    .mul = mul,
    .scale = scale,
    .scaled_exp = scaled_exp,
    .clamp = clamp,
    .scale_rows = scale_rows,
    .scale_columns = scale_columns,
    .column_sum = column_sum,
    .column_range = column_range,
    .mean_forward = mean_forward,
    .mean_backward = mean_backward,
    .argmax_rows = argmax_rows,
    .sort_magnitudes = sort_magnitudes,
    .count_non_finite = count_non_finite,
    .count_different = count_different,
    .matmul = matmul,
    .matmul_integers = matmul_integers,
    .embedding_forward = embedding_forward,
    .embedding_backward = embedding_backward,
    .rms_norm_forward = rms_norm_forward,
    .rms_norm_backward = rms_norm_backward,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward = layer_norm_backward,
    .rope = rope,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .softmax_forward = softmax_forward,
    .softmax_backward = softmax_backward,
    .activation_forward = activation_forward,
    .activation_backward = activation_backward,
    .gated_forward = gated_forward,
    .gated_backward = gated_backward,
    .fake_quant_forward = fake_quant_forward,
    .fake_quant_backward = fake_quant_backward,
    .rms_norm_quant_forward = rms_norm_quant_forward,
    .rms_norm_quant_backward = rms_norm_quant_backward,
    .layer_norm_quant_forward = layer_norm_quant_forward,
    .layer_norm_quant_backward = layer_norm_quant_backward,
    .activation_quant_forward = activation_quant_forward,
    .activation_quant_backward = activation_quant_backward,
    .gated_quant_forward = gated_quant_forward,
    .gated_quant_backward = gated_quant_backward,
    .quantise_weight_forward = quantise_weight_forward,
    .quantise_weight_backward = quantise_weight_backward,
    .weight_codes = weight_codes,
    .dequantise_weight = dequantise_weight,
    .pack_codes = pack_codes,
    .unpack_codes = unpack_codes,
    .start_grid = start_grid,
    .clip_grid_forward = clip_grid_forward,
    .clip_grid_backward = clip_grid_backward,
    .cholesky_of_inverse = cholesky_of_inverse,
    .gptq_weights = gptq_weights,
    .mse_forward = mse_forward,
    .mse_backward = mse_backward,
    .kl_forward = kl_forward,
    .kl_backward = kl_backward,
    .cross_entropy_forward = cross_entropy_forward,
    .cross_entropy_backward = cross_entropy_backward,
    .adamw_step = adamw_step,
    .sign_sgd_step = sign_sgd_step,
};

// MemAvailable of the system: free memory and what it would give up for a program that asks. No limit where it does not
// say.
std::int64_t memory_available() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  for (std::int64_t kib = 0; meminfo >> key >> kib; meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n'))
    if (key == "MemAvailable:") return kib * 1024;
  return std::numeric_limits<std::int64_t>::max();
}

class CpuContext final : public Context {
 public:
  CpuContext(int threads, FreshMemory fresh)
      : Context(Device::cpu, concat("CPU, ", threads, threads == 1 ? " thread" : " threads"), kKernels,
                std::make_shared<HostAllocator>(fresh), std::make_shared<HostAllocator>(fresh)) {}
  void synchronize() override {}  // kernels return when they are done
  std::int64_t bytes_available() const override { return memory_available(); }
};

}  // namespace

std::unique_ptr<Context> open(int threads, FreshMemory fresh) {
  require(threads >= 0, "cpu: the number of threads must not be negative, got ", threads);
  if (threads > 0) omp_set_num_threads(threads);
  openblas_set_num_threads(omp_get_max_threads());
  return std::make_unique<CpuContext>(omp_get_max_threads(), fresh);
}

}  // namespace cbq::cpu
