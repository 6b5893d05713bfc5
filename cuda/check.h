// Turns CUDA's and cuBLAS's status codes into Errors that name the call.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include "core/error.h"

namespace cbq::cuda {

// `call` is a function's name, with or without its arguments, or a kernel's. Kinds: out_of_memory; device_lost, which
// this call only notices: whatever ran before may have caused it; failure for everything else.
void check(cudaError_t status, const char* call);
void check(cublasStatus_t status, const char* call);
// The same for work that has been waited for: a lost device was lost in it.
void check_finished(cudaError_t status, const char* kernel);

// For destructors, which must not throw. Silent while the driver shuts down and on a lost device: the call that noticed
// the loss has said so, and every later one fails the same way.
void log_failure(cudaError_t status, const char* call) noexcept;

}  // namespace cbq::cuda

#define CUDA_CHECK(call) ::cbq::cuda::check((call), #call)
#define CUDA_LOG(call) ::cbq::cuda::log_failure((call), #call)
