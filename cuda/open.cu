#include "cuda/open.h"

#include <cstdlib>

#include "cuda/backend.h"
#include "cuda/pool.h"
#include "cuda/requirements.h"

namespace cbq::cuda {
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

std::string device_name(int device) {
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties.name;
}

bool is_sync_asked_for() {
  const char* value = std::getenv("CBQ_SYNC");
  return value && value[0] == '1';
}

__global__ void probe_kernel() {}

// Whether kernels run from code that has griddepcontrol: a newer GPU may also run what was compiled for an older one.
bool has_dependent_launch() {
  cudaFuncAttributes attributes{};
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe_kernel));
  return attributes.ptxVersion >= 90;
}

// Whether the device is of capability 9.0 and runs code compiled for it, not for an older one.
bool runs_hopper_code(int device) {
  cudaDeviceProp properties{};
  cudaFuncAttributes attributes{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  CUDA_CHECK(cudaFuncGetAttributes(&attributes, probe_kernel));
  return properties.major == 9 && properties.minor == 0 && attributes.binaryVersion == 90;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

LtHandle make_blas() {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  return LtHandle(handle);
}

}  // namespace

CudaContext::CudaContext(int device, FreshMemory fresh) : CudaContext(device, make_stream(), fresh) {}

CudaContext::CudaContext(int device, Stream made, FreshMemory fresh)
    : Context(Device::cuda, device_name(device), kKernels, std::make_shared<PoolAllocator>(device, made.get(), fresh),
              std::make_shared<PinnedAllocator>()),
      waits(is_sync_asked_for()),
      overlaps_launches(has_dependent_launch()),
      is_hopper(runs_hopper_code(device)),
      multiprocessors(attribute(cudaDevAttrMultiProcessorCount, device)),
      stream(std::move(made)),
      blas(make_blas()),
      workspace(allocator, kWorkspaceBytes) {}

std::int64_t CudaContext::bytes_available() const {
  return static_cast<const PoolAllocator&>(*allocator).bytes_free();
}

std::unique_ptr<Context> open(int device, FreshMemory fresh) {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  cudaDriverGetVersion(&driver);
  require_driver(driver, runtime);
  require_gpu(device, status == cudaSuccess ? count : 0, cudaGetErrorString(status));
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  require_capability(properties.name, 10 * properties.major + properties.minor, CBQ_CUDA_ARCHITECTURES);
  CUDA_CHECK(cudaSetDevice(device));
  return std::make_unique<CudaContext>(device, fresh);
}

}  // namespace cbq::cuda
