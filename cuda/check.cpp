#include "cuda/check.h"

#include <cstdio>
#include <string>

namespace cbq::cuda {
namespace {

// Codes after which every call of this process fails: the GPU is gone, or this process's context on it is.
bool is_lost(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown: return true;
    default: return false;
  }
}

std::string name_of(const char* call) {
  const std::string text = call;
  return text.substr(0, text.find('('));
}

std::string text_of(cudaError_t status) {
  return concat(cudaGetErrorName(status), ", ", cudaGetErrorString(status));
}

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  if (is_lost(status))
    fail(ErrorKind::device_lost, "cuda: the GPU stopped working, noticed by ", name_of(call), ": ", text_of(status),
         "; CBQ_SYNC=1 names the kernel");
  const auto kind = status == cudaErrorMemoryAllocation ? ErrorKind::out_of_memory : ErrorKind::failure;
  fail(kind, "cuda: ", name_of(call), ": ", text_of(status));
}

void check_finished(cudaError_t status, const char* kernel) {
  if (is_lost(status))
    fail(ErrorKind::device_lost, "cuda: the GPU stopped working in kernel ", kernel, ": ", text_of(status));
  check(status, kernel);
}

void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  // cuBLASLt has one code for everything that goes wrong on the GPU; CUDA knows more.
  if (const cudaError_t cause = cudaDeviceSynchronize(); is_lost(cause)) check(cause, call);
  const auto kind = status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorKind::out_of_memory : ErrorKind::failure;
  fail(kind, "cuBLASLt: ", name_of(call), ": ", cublasLtGetStatusName(status));
}

void log_failure(cudaError_t status, const char* call) noexcept {
  if (status != cudaSuccess && status != cudaErrorCudartUnloading && !is_lost(status))
    std::fprintf(stderr, "cbq: cuda: %s: %s\n", call, cudaGetErrorString(status));
}

}  // namespace cbq::cuda
