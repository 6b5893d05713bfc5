// What CUDA's status codes and a machine's numbers become. Needs the toolkit, no GPU.
#include <gtest/gtest.h>

#include "cuda/check.h"
#include "cuda/requirements.h"
#include "tests/error_text.h"

namespace cbq::cuda {
namespace {

TEST(CudaErrors, NameTheCallWithoutItsArguments) {
  EXPECT_EQ(error_text([] { check(cudaErrorInvalidValue, "cudaMemcpyAsync(to, from, 4)"); }, ErrorKind::failure),
            "cuda: cudaMemcpyAsync: cudaErrorInvalidValue, invalid argument");
  EXPECT_EQ(error_text([] { check(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmul"); }, ErrorKind::failure),
            "cuBLASLt: cublasLtMatmul: CUBLAS_STATUS_NOT_SUPPORTED");
  EXPECT_NO_THROW(check(cudaSuccess, "x"));
  EXPECT_NO_THROW(check_finished(cudaSuccess, "x"));
}

TEST(CudaErrors, SayThatTheGpuStoppedWorking) {
  for (const cudaError_t lost : {cudaErrorIllegalAddress, cudaErrorLaunchFailure, cudaErrorMisalignedAddress,
                                 cudaErrorECCUncorrectable, cudaErrorLaunchTimeout, cudaErrorUnknown}) {
    const std::string what = concat(cudaGetErrorName(lost), ", ", cudaGetErrorString(lost));
    EXPECT_EQ(
        error_text([&] { check(lost, "cudaStreamSynchronize(stream)"); }, ErrorKind::device_lost),
        "cuda: the GPU stopped working, noticed by cudaStreamSynchronize: " + what + "; CBQ_SYNC=1 names the kernel");
    EXPECT_EQ(error_text([&] { check_finished(lost, "rope"); }, ErrorKind::device_lost),
              "cuda: the GPU stopped working in kernel rope: " + what);
  }
  EXPECT_EQ(Error(ErrorKind::device_lost, "").exit_code(), 1);
}

TEST(CudaErrors, SayThatMemoryRanOut) {
  EXPECT_EQ(error_text([] { check(cudaErrorMemoryAllocation, "rope"); }, ErrorKind::out_of_memory),
            "cuda: rope: cudaErrorMemoryAllocation, out of memory");
  EXPECT_EQ(Error(ErrorKind::out_of_memory, "").exit_code(), 1);
}

TEST(CudaErrors, OfDestructorsAreSilentOnALostGpu) {
  testing::internal::CaptureStderr();
  log_failure(cudaErrorIllegalAddress, "cudaFreeAsync");
  log_failure(cudaErrorCudartUnloading, "cudaFreeAsync");
  log_failure(cudaSuccess, "cudaFreeAsync");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  log_failure(cudaErrorInvalidValue, "cudaFreeAsync");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "cbq: cuda: cudaFreeAsync: invalid argument\n");
}

TEST(CudaRequirements, ADriverOfTheToolkitsMajorVersion) {
  EXPECT_EQ(error_text([] { require_driver(0, 13000); }),
            "cuda: no NVIDIA driver was found; use \"device\": \"cpu\", or install a driver");
  EXPECT_EQ(error_text([] { require_driver(12080, 13000); }),
            "cuda: the driver supports CUDA 12.8, this program was built with 13.0; update the driver");
  for (const int driver : {13000, 13020, 14000}) EXPECT_NO_THROW(require_driver(driver, 13010)) << driver;
}

TEST(CudaRequirements, AGpuThatIsThere) {
  EXPECT_EQ(error_text([] { require_gpu(0, 0, "no CUDA-capable device is detected"); }),
            "cuda: no GPU was found (no CUDA-capable device is detected); use \"device\": \"cpu\"");
  EXPECT_EQ(error_text([] { require_gpu(2, 2, ""); }), "cuda: there is no GPU 2, only 0 .. 1");
  EXPECT_NO_THROW(require_gpu(1, 2, ""));
}

TEST(CudaRequirements, CodeForTheGpu) {
  EXPECT_EQ(error_text([] { require_capability("Tesla T4", 75, "80, 86, 89, 90, 100, 120"); }),
            "cuda: Tesla T4 has compute capability 7.5, the kernels need 8.0 or more; use \"device\": \"cpu\"");
  EXPECT_EQ(error_text([] { require_capability("NVIDIA A100", 80, "90, 120"); }),
            "cuda: NVIDIA A100 has compute capability 8.0, this program was built for 90, 120; rebuild with "
            "-DCBQ_CUDA_ARCHITECTURES=80");
  for (const int capability : {90, 100, 120}) EXPECT_NO_THROW(require_capability("x", capability, "120, 90"));
}

}  // namespace
}  // namespace cbq::cuda
