// Owners of CUDA objects: the only place besides pool.cu and record.cu that creates or destroys them.
#pragma once

#include <utility>

#include "cuda/check.h"

namespace cbq::cuda {

inline void destroy(cudaStream_t h) {
  CUDA_LOG(cudaStreamDestroy(h));
}
inline void destroy(cudaEvent_t h) {
  CUDA_LOG(cudaEventDestroy(h));
}
inline void destroy(cudaGraph_t h) {
  CUDA_LOG(cudaGraphDestroy(h));
}
inline void destroy(cudaGraphExec_t h) {
  CUDA_LOG(cudaGraphExecDestroy(h));
}
inline void destroy(cublasLtHandle_t h) {
  cublasLtDestroy(h);
}
inline void destroy(cublasLtMatmulDesc_t h) {
  cublasLtMatmulDescDestroy(h);
}
inline void destroy(cublasLtMatrixLayout_t h) {
  cublasLtMatrixLayoutDestroy(h);
}
inline void destroy(cublasLtMatmulPreference_t h) {
  cublasLtMatmulPreferenceDestroy(h);
}

// Move-only owner of a handle that destroy() releases.
template <class H>
class Handle {
 public:
  Handle() = default;
  explicit Handle(H handle) : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, H{})) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Handle() {
    if (handle_) destroy(handle_);
  }
  H get() const { return handle_; }
  explicit operator bool() const { return handle_ != H{}; }

 private:
  H handle_{};
};

using Stream = Handle<cudaStream_t>;
using Event = Handle<cudaEvent_t>;
using Graph = Handle<cudaGraph_t>;
using GraphExec = Handle<cudaGraphExec_t>;
using LtHandle = Handle<cublasLtHandle_t>;
using LtMatmulDesc = Handle<cublasLtMatmulDesc_t>;
using LtLayout = Handle<cublasLtMatrixLayout_t>;
using LtPreference = Handle<cublasLtMatmulPreference_t>;

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return Stream(stream);
}

// Of a point in a stream's work, for waits on the host.
inline Event make_event() {
  cudaEvent_t event = nullptr;
  CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return Event(event);
}

}  // namespace cbq::cuda
