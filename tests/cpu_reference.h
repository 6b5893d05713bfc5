// Matrices of host numbers for tests of single kernels: random inputs, strided tensors of them, and comparisons.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <functional>
#include <random>
#include <vector>

#include "core/tensor.h"
#include "cpu/open.h"

namespace cbq::test {

// Row-major long double numbers that float holds exactly, so that only a kernel's own error counts.
struct Matrix {
  std::int64_t rows, cols;
  std::vector<long double> values;

  Matrix(std::int64_t rows_, std::int64_t cols_) : rows(rows_), cols(cols_), values(std::size_t(rows_ * cols_)) {}
  long double& operator()(std::int64_t r, std::int64_t c) { return values[std::size_t(r * cols + c)]; }
  long double operator()(std::int64_t r, std::int64_t c) const { return values[std::size_t(r * cols + c)]; }
};

inline Matrix random_matrix(std::int64_t rows, std::int64_t cols, unsigned seed, float spread = 1) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal(0, spread);
  Matrix m(rows, cols);
  for (long double& value : m.values) value = normal(bits);
  return m;
}

template <class T>
constexpr DType kType = sizeof(T) == 4 ? DType::f32 : DType::f64;

// A tensor (rows, cols) whose rows lie `gap` elements apart; the gaps hold NaN.
template <class T>
Tensor tensor(Context& ctx, const Matrix& m, std::int64_t gap = 0) {
  std::vector<double> wide(std::size_t(m.rows * (m.cols + gap)), std::nan(""));
  for (std::int64_t r = 0; r < m.rows; ++r)
    for (std::int64_t c = 0; c < m.cols; ++c) wide[std::size_t(r * (m.cols + gap) + c)] = double(m(r, c));
  return from_host<double>(ctx, {m.rows, m.cols + gap}, kType<T>, wide).slice(1, 0, m.cols);
}

// The same numbers as a vector (n), for weights and per-row quantities.
template <class T>
Tensor vector_tensor(Context& ctx, const Matrix& m) {
  return tensor<T>(ctx, m).reshape({std::int64_t(m.values.size())});
}

// An output nobody has written yet, rows `gap` apart. The context fills it with NaN.
template <class T>
Tensor output(Context& ctx, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0) {
  return Tensor(ctx, {rows, cols + gap}, kType<T>).slice(1, 0, cols);
}

// Whether the bits of a result may depend on the number of threads, as those of OpenBLAS do. Two runs always agree.
enum class Bits { one_for_all_threads, one_per_thread_count };

// Runs `kernel` twice with each of 1, 2 and 3 threads on NaN-poisoned memory, and compares the bits of its outputs.
inline std::vector<std::vector<double>> run_on_threads(const std::function<std::vector<Tensor>(Context&)>& kernel,
                                                       Bits bits = Bits::one_for_all_threads) {
  const auto ctx = cpu::open(0, FreshMemory::nan_bytes);
  const int threads_before = omp_get_max_threads();
  std::vector<std::vector<double>> first;
  for (int threads : {1, 1, 2, 2, 3, 3}) {
    if (threads != omp_get_max_threads() && bits == Bits::one_per_thread_count) first.clear();
    omp_set_num_threads(threads);
    std::vector<std::vector<double>> outputs;
    for (const Tensor& y : kernel(*ctx)) outputs.push_back(to_host<double>(*ctx, contiguous(*ctx, y)));
    if (first.empty()) first = outputs;
    EXPECT_TRUE(first == outputs) << "with " << threads << " threads";  // false for NaN, an element not written
  }
  omp_set_num_threads(threads_before);
  return first;
}

// Largest |got - want| / (1 + |want|) must be at most `f64_tolerance`, or 2^29 of it for float, the ratio of the
// epsilons.
template <class T>
void expect_near(const std::vector<double>& got, const Matrix& want, const std::string& what,
                 double f64_tolerance = 1e-14) {
  const double tolerance = sizeof(T) == 4 ? f64_tolerance * 0x1p29 : f64_tolerance;
  ASSERT_EQ(got.size(), want.values.size()) << what;
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = double(std::abs(got[i] - want.values[i]) / (1 + std::abs(want.values[i])));
    if (!(error <= worst)) worst = error;
  }
  EXPECT_TRUE(worst <= tolerance) << what << ": error " << worst << ", tolerance " << tolerance;
}

}  // namespace cbq::test
