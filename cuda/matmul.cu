// y = op(a) op(b) + bias + addend through cuBLASLt. f32 in true f32 (no tf32), bf16 with f32 accumulation; y of bf16
// operands may be f32.
//
// cuBLASLt thinks in columns: a row-major matrix is its transpose to it. So y^T (N,M) = op(b)^T op(a)^T is asked for,
// with b first, and the bias, one value per column of y, is one per row of y^T, which is what its epilogue adds.
#include <array>
#include <span>

#include "cuda/launch.h"
#include "cuda/matmul_choice.h"

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
                                   std::max(v.row_stride(), v.cols())),
        "cublasLtMatrixLayoutCreate");
  return LtLayout(made);
}

template <class T>
void set(const LtMatmulDesc& desc, cublasLtMatmulDescAttributes_t attribute, const T& value) {
  check(cublasLtMatmulDescSetAttribute(desc.get(), attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
}

template <class T>
void set(const LtPreference& preference, cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
  check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute");
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

// The largest power of two up to 256 that divides an address: what an algorithm may rely on.
std::uint32_t alignment(const View& v) {
  const auto address = reinterpret_cast<std::uintptr_t>(v.data);
  std::uint32_t bytes = 256;
  while (address % bytes != 0) bytes /= 2;
  return bytes;
}

int compute_capability() {
  int device = 0, major = 0, minor = 0;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  return 10 * major + minor;
}

// `addend` is y where there is none.
MatmulKey key_of(const View& y, const View& a, Trans trans_a, const View& b, Trans trans_b, const View& bias,
                 const View& addend) {
  return {std::int64_t(y.dtype) * 16 + std::int64_t(a.dtype),
          y.rows(),
          y.cols(),
          trans_a == Trans::no ? a.cols() : a.rows(),
          y.row_stride(),
          a.row_stride(),
          b.row_stride(),
          std::int64_t(trans_a == Trans::yes) * 4 + std::int64_t(trans_b == Trans::yes) * 2 + std::int64_t(bool(bias)),
          std::int64_t(alignment(y)),
          std::int64_t(alignment(a)),
          std::int64_t(alignment(b)),
          addend.row_stride(),
          std::int64_t(alignment(addend))};
}

MatmulPlan make_plan(CudaContext& cuda, const View& y, const View& a, Trans trans_a, const View& b, Trans trans_b,
                     const View& bias, const View& addend) {
  MatmulPlan plan{description(trans_a, trans_b, bias), layout(a), layout(b), layout(y), layout(addend), {}};
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  const LtPreference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::size_t(cuda.workspace.bytes()));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(b));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(a));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(addend));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(y));
  std::array<cublasLtMatmulHeuristicResult_t, 8> proposals{};
  int found = 0;
  check(cublasLtMatmulAlgoGetHeuristic(cuda.blas.get(), plan.desc.get(), plan.b.get(), plan.a.get(), plan.addend.get(),
                                       plan.y.get(), preference.get(), int(proposals.size()), proposals.data(), &found),
        "cublasLtMatmulAlgoGetHeuristic");
  require(found >= 1, "matmul: cuBLASLt has no algorithm for ", a.shape, " x ", b.shape, " ", a.dtype);
  const std::span<const cublasLtMatmulHeuristicResult_t> all(proposals.data(), std::size_t(found));
  const bool is_measured = a.dtype == DType::bf16 && compute_capability() == 90;
  plan.algorithm = (is_measured ? best_at_power_limit(all, trans_a, trans_b) : all.front()).algo;
  return plan;
}

}  // namespace

void matmul(Context& ctx, View y, View a, Trans trans_a, View b, Trans trans_b, View bias, View addend) {
  if (y.count() == 0) return;
  CudaContext& cuda = cuda_context(ctx);
  const float alpha = 1, beta = addend ? 1.0f : 0.0f;
  if (!addend) addend = y;  // not read, but cuBLASLt wants one
  const MatmulKey key = key_of(y, a, trans_a, b, trans_b, bias, addend);
  auto found = cuda.matmul_plans.find(key);
  if (found == cuda.matmul_plans.end())
    found = cuda.matmul_plans.emplace(key, make_plan(cuda, y, a, trans_a, b, trans_b, bias, addend)).first;
  const MatmulPlan& plan = found->second;
  if (bias) set(plan.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.data);
  check(cublasLtMatmul(cuda.blas.get(), plan.desc.get(), &alpha, b.data, plan.b.get(), a.data, plan.a.get(), &beta,
                       addend.data, plan.addend.get(), y.data, plan.y.get(), &plan.algorithm, cuda.workspace.data(),
                       std::size_t(cuda.workspace.bytes()), cuda.stream.get()),
        "cublasLtMatmul");
  launched("matmul", ctx);
}

}  // namespace cbq::cuda
