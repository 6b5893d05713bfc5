// General matrix products of OpenBLAS for float and double, row-major.
#pragma once

#include <cblas.h>

#include <cstdint>
#include <limits>

#include "core/kernel_args.h"
#include "cpu/parallel.h"

namespace cbq::cpu {

// A row-major operand: op(data), `stride` elements from one stored row to the next.
template <class T>
struct Operand {
  const T* data;
  std::int64_t stride;
  Trans trans = Trans::no;
};

inline CBLAS_TRANSPOSE blas_trans(Trans trans) {
  return trans == Trans::yes ? CblasTrans : CblasNoTrans;
}

// c = alpha op(a) op(b) + beta c; c (m,n) with rows `c_stride` apart, op(a) (m,k), op(b) (k,n). c is not read if beta =
// 0. Sizes and strides are at most blas_limit().
inline void gemm(std::int64_t m, std::int64_t n, std::int64_t k, float alpha, Operand<float> a, Operand<float> b,
                 float beta, float* c, std::int64_t c_stride) {
  cblas_sgemm(CblasRowMajor, blas_trans(a.trans), blas_trans(b.trans), blasint(m), blasint(n), blasint(k), alpha,
              a.data, blasint(a.stride), b.data, blasint(b.stride), beta, c, blasint(c_stride));
}

inline void gemm(std::int64_t m, std::int64_t n, std::int64_t k, double alpha, Operand<double> a, Operand<double> b,
                 double beta, double* c, std::int64_t c_stride) {
  cblas_dgemm(CblasRowMajor, blas_trans(a.trans), blas_trans(b.trans), blasint(m), blasint(n), blasint(k), alpha,
              a.data, blasint(a.stride), b.data, blasint(b.stride), beta, c, blasint(c_stride));
}

// y (n) += op(b)^T x for op(b) (k,n), the elements of x `x_step` apart: the product of one row, which gemm would take
// several times as long for, because it copies b first. k is at least 1.
inline void gemv(std::int64_t n, std::int64_t k, const float* x, std::int64_t x_step, Operand<float> b, float* y) {
  const bool stored_as_read = b.trans == Trans::no;
  cblas_sgemv(CblasRowMajor, stored_as_read ? CblasTrans : CblasNoTrans, blasint(stored_as_read ? k : n),
              blasint(stored_as_read ? n : k), 1, b.data, blasint(b.stride), x, blasint(x_step), 1, y, 1);
}

inline void gemv(std::int64_t n, std::int64_t k, const double* x, std::int64_t x_step, Operand<double> b, double* y) {
  const bool stored_as_read = b.trans == Trans::no;
  cblas_dgemv(CblasRowMajor, stored_as_read ? CblasTrans : CblasNoTrans, blasint(stored_as_read ? k : n),
              blasint(stored_as_read ? n : k), 1, b.data, blasint(b.stride), x, blasint(x_step), 1, y, 1);
}

constexpr std::int64_t blas_limit() {
  return std::numeric_limits<blasint>::max();
}

// While it lives, products called by this thread run on it alone. The OpenMP build of OpenBLAS asks OpenMP for its
// number of threads at every call, which is a property of the calling thread. The pthread build keeps one number for
// the process: changing it is safe, and slows down other threads that compute at the same time, if there are any.
class SerialBlas {
 public:
  SerialBlas()
      : omp_threads_(omp_get_max_threads()),
        pool_threads_(openblas_get_parallel() == OPENBLAS_THREAD ? openblas_get_num_threads() : 0) {
    omp_set_num_threads(1);
    if (pool_threads_ > 0) openblas_set_num_threads(1);
  }
  ~SerialBlas() {
    omp_set_num_threads(omp_threads_);
    if (pool_threads_ > 0) openblas_set_num_threads(pool_threads_);
  }
  SerialBlas(const SerialBlas&) = delete;
  SerialBlas& operator=(const SerialBlas&) = delete;

 private:
  int omp_threads_, pool_threads_;
};

// fn(i, thread) for i in [0, n), each taken by the next free thread, thread < max_threads(): for pieces of unequal cost
// whose products run on one thread each. `work` as in parallel_for.
template <class Fn>
void parallel_gemm_tasks(std::int64_t n, std::int64_t work, const Fn& fn) {
  const int threads = n > 1 && work >= kSerialWork ? max_threads() : 1;
  const SerialBlas serial;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (std::int64_t i = 0; i < n; ++i) fn(i, omp_get_thread_num());
}

}  // namespace cbq::cpu
