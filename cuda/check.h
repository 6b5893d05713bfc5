// Turns CUDA's and cuBLAS's status codes into Errors that name the call.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdio>

#include "core/error.h"

namespace cbq::cuda {

inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  fail(ErrorKind::failure, "cuda: ", call, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status));
}

inline void check(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(ErrorKind::failure, "cuBLASLt: ", call, ": ", cublasLtGetStatusName(status));
}

// For destructors, which must not throw. Silent while the driver shuts down.
inline void log_failure(cudaError_t status, const char* call) noexcept {
  if (status != cudaSuccess && status != cudaErrorCudartUnloading)
    std::fprintf(stderr, "cbq: cuda: %s: %s\n", call, cudaGetErrorString(status));
}

}  // namespace cbq::cuda

#define CUDA_CHECK(call) ::cbq::cuda::check((call), #call)
#define CUDA_LOG(call) ::cbq::cuda::log_failure((call), #call)
