// The Context of this backend and the kernels it has, with the signatures of core/kernels.h.
#pragma once

#include <type_traits>

#include "core/kernels.h"
#include "core/tensor.h"
#include "cuda/handles.h"

namespace cbq::cuda {

// Bytes of cuBLASLt's workspace: enough for every split-K algorithm on Hopper, as NVIDIA advises.
constexpr std::int64_t kWorkspaceBytes = 32 << 20;

// One compute stream carries all kernels and the memory they use.
class CudaContext final : public Context {
 public:
  explicit CudaContext(int device);
  void synchronize() override { CUDA_CHECK(cudaStreamSynchronize(stream.get())); }

  const Stream stream;
  const LtHandle blas;
  const Storage workspace;  // kWorkspaceBytes, for cuBLASLt

 private:
  CudaContext(int device, Stream made);
};

inline CudaContext& cuda_context(Context& ctx) {
  return static_cast<CudaContext&>(ctx);
}

template <class Pointer>
using Fn = std::remove_pointer_t<Pointer>;

Fn<decltype(Kernels::copy_from_host)> copy_from_host;
Fn<decltype(Kernels::copy_to_host)> copy_to_host;
Fn<decltype(Kernels::convert)> convert;
Fn<decltype(Kernels::fill)> fill;
Fn<decltype(Kernels::matmul)> matmul;

}  // namespace cbq::cuda
