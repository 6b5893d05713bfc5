#include <cudaTypedefs.h>

#include "cuda/bulk_copy.cuh"

namespace cbq::cuda {
namespace {

// The driver's function, reached through the runtime so that nothing is linked with the driver.
PFN_cuTensorMapEncodeTiled_v12000 find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  CUDA_CHECK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
  require(found == cudaDriverEntryPointSuccess, "the NVIDIA driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

}  // namespace

CUtensorMap tensor_map(const Heads<const bf16>& x, int rows) {
  static const auto encode = find_encode();
  const auto unsigned64 = [](std::int64_t n) { return cuuint64_t(n); };
  const cuuint64_t sizes[] = {unsigned64(x.dim), unsigned64(x.tokens), unsigned64(x.heads), unsigned64(x.batch)};
  // The stride of a dimension of size 1 is never used, but must be a valid one.
  const auto stride = [&](std::int64_t size, std::int64_t elements) {
    return unsigned64((size > 1 ? elements : x.dim) * std::int64_t(sizeof(bf16)));
  };
  const cuuint64_t strides[] = {stride(x.tokens, x.token_stride), stride(x.heads, x.head_stride),
                                stride(x.batch, x.batch_stride)};
  const cuuint32_t box[] = {kPanelColumns, cuuint32_t(rows), 1, 1}, every[] = {1, 1, 1, 1};
  CUtensorMap map;
  const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<bf16*>(x.data), sizes, strides,
                                 box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  require(status == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", int(status), " for ", x.batch, " x ", x.tokens,
          " x ", x.heads, " x ", x.dim, " values");
  return map;
}

}  // namespace cbq::cuda
