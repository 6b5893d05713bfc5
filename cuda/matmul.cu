// y = op(a) op(b) + bias through cuBLASLt. f32 in true f32 (no tf32), bf16 with f32 accumulation.
//
// cuBLASLt thinks in columns: a row-major matrix is its transpose to it. So y^T (N,M) = op(b)^T op(a)^T is asked for,
// with b first, and the bias, one value per column of y, is one per row of y^T, which is what its epilogue adds.
#include "cuda/backend.h"

namespace cbq::cuda {
namespace {

cudaDataType_t data_type(DType dtype) {
  if (dtype == DType::f32) return CUDA_R_32F;
  if (dtype == DType::bf16) return CUDA_R_16BF;
  fail(ErrorKind::failure, "matmul: the CUDA backend multiplies f32 or bf16, got ", dtype);
}

// The layout cuBLASLt sees of a row-major view: cols x rows, leading dimension the row stride.
LtLayout layout(const View& v) {
  cublasLtMatrixLayout_t made = nullptr;
  check(cublasLtMatrixLayoutCreate(&made, data_type(v.dtype), std::uint64_t(v.cols()), std::uint64_t(v.rows()),
                                   v.row_stride()),
        "cublasLtMatrixLayoutCreate");
  return LtLayout(made);
}

template <class T>
void set(const LtMatmulDesc& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
}

LtMatmulDesc description(Trans trans_a, Trans trans_b, const View& bias) {
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  LtMatmulDesc desc(made);
  set(desc, CUBLASLT_MATMUL_DESC_TRANSA, trans_b == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(desc, CUBLASLT_MATMUL_DESC_TRANSB, trans_a == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (bias) {
    set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
    set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(bias.dtype));
  }
  return desc;
}

}  // namespace

void matmul(Context& ctx, View y, View a, Trans trans_a, View b, Trans trans_b, View bias, Write write) {
  CudaContext& cuda = cuda_context(ctx);
  const LtMatmulDesc desc = description(trans_a, trans_b, bias);
  const LtLayout layout_a = layout(a), layout_b = layout(b), layout_y = layout(y);

  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  const LtPreference preference(made);
  const std::size_t workspace_bytes = std::size_t(cuda.workspace.bytes());
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &workspace_bytes, sizeof(workspace_bytes)),
        "cublasLtMatmulPreferenceSetAttribute");
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  check(cublasLtMatmulAlgoGetHeuristic(cuda.blas.get(), desc.get(), layout_b.get(), layout_a.get(), layout_y.get(),
                                       layout_y.get(), preference.get(), 1, &best, &found),
        "cublasLtMatmulAlgoGetHeuristic");
  require(found == 1, "matmul: cuBLASLt has no algorithm for ", a.shape, " x ", b.shape, " ", a.dtype);

  const float alpha = 1, beta = write == Write::add ? 1.0f : 0.0f;
  check(cublasLtMatmul(cuda.blas.get(), desc.get(), &alpha, b.data, layout_b.get(), a.data, layout_a.get(), &beta,
                       y.data, layout_y.get(), y.data, layout_y.get(), &best.algo, cuda.workspace.data(),
                       workspace_bytes, cuda.stream.get()),
        "cublasLtMatmul");
}

}  // namespace cbq::cuda
