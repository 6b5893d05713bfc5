#include "cuda/open.h"

#include "cuda/backend.h"
#include "cuda/pool.h"

namespace cbq::cuda {
namespace {

// nullptr marks a kernel that this backend does not have; missing_kernels() counts them.
const Kernels kKernels = {
    .copy_from_host = copy_from_host,
    .copy_to_host = copy_to_host,
    .convert = convert,
    .fill = fill,
    .add = nullptr,
    .mul = nullptr,
    .scale = nullptr,
    .scaled_exp = nullptr,
    .clamp = nullptr,
    .scale_rows = nullptr,
    .scale_columns = nullptr,
    .column_sum = nullptr,
    .column_range = nullptr,
    .mean_forward = nullptr,
    .mean_backward = nullptr,
    .argmax_rows = nullptr,
    .sort_magnitudes = nullptr,
    .count_non_finite = nullptr,
    .matmul = matmul,
    .embedding_forward = nullptr,
    .embedding_backward = nullptr,
    .rms_norm_forward = nullptr,
    .rms_norm_backward = nullptr,
    .layer_norm_forward = nullptr,
    .layer_norm_backward = nullptr,
    .rope = nullptr,
    .attention_forward = nullptr,
    .attention_backward = nullptr,
    .softmax_forward = nullptr,
    .softmax_backward = nullptr,
    .activation_forward = nullptr,
    .activation_backward = nullptr,
    .gated_forward = nullptr,
    .gated_backward = nullptr,
    .fake_quant_forward = nullptr,
    .fake_quant_backward = nullptr,
    .quantise_weight_forward = nullptr,
    .quantise_weight_backward = nullptr,
    .rounding_regulariser_forward = nullptr,
    .rounding_regulariser_backward = nullptr,
    .weight_codes = nullptr,
    .dequantise_weight = nullptr,
    .start_grid = nullptr,
    .clip_grid_forward = nullptr,
    .clip_grid_backward = nullptr,
    .cholesky_of_inverse = nullptr,
    .gptq_codes = nullptr,
    .mse_forward = nullptr,
    .mse_backward = nullptr,
    .kl_forward = nullptr,
    .kl_backward = nullptr,
    .cross_entropy_forward = nullptr,
    .cross_entropy_backward = nullptr,
    .adamw_step = nullptr,
    .sign_sgd_step = nullptr,
};

std::string device_name(int device) {
  cudaDeviceProp properties{};
  CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties.name;
}

LtHandle make_blas() {
  cublasLtHandle_t handle = nullptr;
  check(cublasLtCreate(&handle), "cublasLtCreate");
  return LtHandle(handle);
}

}  // namespace

CudaContext::CudaContext(int device) : CudaContext(device, make_stream()) {}

CudaContext::CudaContext(int device, Stream made)
    : Context(Device::cuda, device_name(device), kKernels, std::make_shared<PoolAllocator>(device, made.get())),
      stream(std::move(made)),
      blas(make_blas()),
      workspace(allocator, kWorkspaceBytes) {}

std::unique_ptr<Context> open(int device) {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  cudaDriverGetVersion(&driver);
  require_input(driver != 0, "cuda: no NVIDIA driver was found; use \"device\": \"cpu\", or install a driver");
  require_input(status != cudaErrorInsufficientDriver, "cuda: the driver supports CUDA ", driver / 1000, ".",
                driver % 1000 / 10, ", this program was built with ", runtime / 1000, ".", runtime % 1000 / 10,
                "; update the driver");
  require_input(status == cudaSuccess && count > 0, "cuda: no GPU was found (", cudaGetErrorString(status),
                "); use \"device\": \"cpu\"");
  require_input(device >= 0 && device < count, "cuda: there is no GPU ", device, ", only 0 .. ", count - 1);
  CUDA_CHECK(cudaSetDevice(device));
  return std::make_unique<CudaContext>(device);
}

}  // namespace cbq::cuda
