// y = op(a) op(b) + bias + addend through cuBLASLt. f32 in true f32 (no tf32), bf16 with f32 accumulation; y of bf16
// operands may be f32. Products of integers multiply f8: on capability 9.0, where cuBLASLt takes a factor for each row
// of both operands, as they are; elsewhere as values. The tensor cores add f8 products with some 14 bits;
// cuBLASLt adds up their sums of 128 products in f32, so that of 4-bit integers next to nothing is lost.
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
  if (dtype == DType::f8) return CUDA_R_8F_E4M3;
  fail(ErrorKind::failure, "matmul: the CUDA backend multiplies f32, bf16 or f8, got ", dtype);
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

// y = op(a) op(b) + bias + addend; factors of the rows of a and of op(b)^T, or none. `addend` is y where there is none.
struct Product {
  View y, a;
  Trans trans_a;
  View b;
  Trans trans_b;
  View bias, addend, step_a = {}, step_b = {};
};

LtMatmulDesc description(const Product& p) {
  cublasLtMatmulDesc_t made = nullptr;
  check(cublasLtMatmulDescCreate(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  LtMatmulDesc desc(made);
  set(desc, CUBLASLT_MATMUL_DESC_TRANSA, p.trans_b == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(desc, CUBLASLT_MATMUL_DESC_TRANSB, p.trans_a == Trans::yes ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (p.bias) {
    set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(p.bias.dtype));
  }
  if (p.step_a) {
    set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
  }
  return desc;
}

// The addresses that a description holds.
void set_addresses(const LtMatmulDesc& desc, const Product& p) {
  if (p.bias) set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias.data);
  if (p.step_a) {
    set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, p.step_b.data);
    set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, p.step_a.data);
  }
}

// The largest power of two up to 256 that divides an address: what an algorithm may rely on.
std::uint32_t alignment(const View& v) {
  const auto address = reinterpret_cast<std::uintptr_t>(v.data);
  std::uint32_t bytes = 256;
  while (address % bytes != 0) bytes /= 2;
  return bytes;
}

MatmulKey key_of(const Product& p) {
  return {std::int64_t(p.y.dtype) * 16 + std::int64_t(p.a.dtype),
          p.y.rows(),
          p.y.cols(),
          p.trans_a == Trans::no ? p.a.cols() : p.a.rows(),
          p.y.row_stride(),
          p.a.row_stride(),
          p.b.row_stride(),
          std::int64_t(p.trans_a == Trans::yes) * 4 + std::int64_t(p.trans_b == Trans::yes) * 2 +
              std::int64_t(bool(p.bias)),
          std::int64_t(alignment(p.y)),
          std::int64_t(alignment(p.a)),
          std::int64_t(alignment(p.b)),
          p.addend.row_stride(),
          std::int64_t(alignment(p.addend))};
}

MatmulPlan make_plan(CudaContext& cuda, const Product& p) {
  MatmulPlan plan{description(p), layout(p.a), layout(p.b), layout(p.y), layout(p.addend), {}};
  set_addresses(plan.desc, p);
  cublasLtMatmulPreference_t made = nullptr;
  check(cublasLtMatmulPreferenceCreate(&made), "cublasLtMatmulPreferenceCreate");
  const LtPreference preference(made);
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::size_t(cuda.workspace.bytes()));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(p.b));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(p.a));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(p.addend));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(p.y));
  std::array<cublasLtMatmulHeuristicResult_t, 8> proposals{};
  int found = 0;
  check(cublasLtMatmulAlgoGetHeuristic(cuda.blas.get(), plan.desc.get(), plan.b.get(), plan.a.get(), plan.addend.get(),
                                       plan.y.get(), preference.get(), int(proposals.size()), proposals.data(), &found),
        "cublasLtMatmulAlgoGetHeuristic");
  require(found >= 1, "matmul: cuBLASLt has no algorithm for ", p.a.shape, " x ", p.b.shape, " ", p.a.dtype);
  const std::span<const cublasLtMatmulHeuristicResult_t> all(proposals.data(), std::size_t(found));
  const bool is_measured = p.a.dtype == DType::bf16 && cuda.is_hopper;
  plan.algorithm = (is_measured ? best_at_power_limit(all, p.trans_a, p.trans_b) : all.front()).algo;
  return plan;
}

void multiply(const char* name, Context& ctx, Product p) {
  if (p.y.count() == 0) return;
  CudaContext& cuda = cuda_context(ctx);
  const float alpha = 1, beta = p.addend ? 1.0f : 0.0f;
  if (!p.addend) p.addend = p.y;  // not read, but cuBLASLt wants one
  const MatmulKey key = key_of(p);
  auto found = cuda.matmul_plans.find(key);
  if (found == cuda.matmul_plans.end()) found = cuda.matmul_plans.emplace(key, make_plan(cuda, p)).first;
  const MatmulPlan& plan = found->second;
  set_addresses(plan.desc, p);
  check(cublasLtMatmul(cuda.blas.get(), plan.desc.get(), &alpha, p.b.data, plan.b.get(), p.a.data, plan.a.get(), &beta,
                       p.addend.data, plan.addend.get(), p.y.data, plan.y.get(), &plan.algorithm, cuda.workspace.data(),
                       std::size_t(cuda.workspace.bytes()), cuda.stream.get()),
        "cublasLtMatmul");
  launched(name, ctx);
}

// The values of integers, in `dtype`.
Tensor values_of(Context& ctx, const IntegerRows& x, DType dtype) {
  Tensor values(ctx, {x.integers.rows(), x.integers.cols()}, dtype);
  convert(ctx, values, x.integers);
  scale_rows(ctx, values, values, x.step);
  return values;
}

// What cuBLASLt asks of f8 operands: addresses, rows and columns in multiples of 16.
constexpr int kF8Multiple = 16;
bool takes_f8(const View& x) {
  return x.rows() % kF8Multiple == 0 && x.cols() % kF8Multiple == 0 && x.row_stride() % kF8Multiple == 0 &&
         alignment(x) >= kF8Multiple;
}

}  // namespace

bool CudaContext::prefers_integers(DType dtype, const Shape& a, const Shape& b) const {
  return is_hopper && dtype == DType::bf16 && a.rows() % kF8Multiple == 0 && a.cols() % kF8Multiple == 0 &&
         b.rows() % kF8Multiple == 0;
}

void matmul(Context& ctx, View y, View a, Trans trans_a, View b, Trans trans_b, View bias, View addend) {
  multiply("matmul", ctx, {y, a, trans_a, b, trans_b, bias, addend});
}

void matmul_integers(Context& ctx, View y, const IntegerRows& a, const IntegerRows& b, View bias, View addend) {
  if (cuda_context(ctx).is_hopper && y.dtype == DType::bf16 && takes_f8(a.integers) && takes_f8(b.integers))
    return multiply("matmul_integers", ctx,
                    {y, a.integers, Trans::no, b.integers, Trans::yes, bias, addend, a.step, b.step});
  matmul(ctx, y, values_of(ctx, a, y.dtype), Trans::no, values_of(ctx, b, y.dtype), Trans::yes, bias, addend);
}

}  // namespace cbq::cuda
