// Softmax over the columns of each row, less the row's maximum so that nothing overflows:
//   y = exp(x - max_c x) / sum_c exp(x - max_c x)
//   dx = y (dy - sum_c dy y)
#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

template <class T>
void forward(Rows<T> y, Rows<const T> x) {
  parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
    const T largest = max_over(x.cols, x.row(r));
#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) y(r, c) = cpu::exp(x(r, c) - largest);

    const T inverse = T(1 / sum_over(x.cols, [&](std::int64_t c) { return double(y(r, c)); }));
#pragma omp simd
    for (std::int64_t c = 0; c < x.cols; ++c) y(r, c) *= inverse;
  });
}

template <class T>
void backward(Rows<T> dx, Rows<const T> dy, Rows<const T> y) {
  parallel_for(y.rows, y.rows * y.cols, [&](std::int64_t r) {
    const T mean = T(sum_over(y.cols, [&](std::int64_t c) { return double(dy(r, c)) * double(y(r, c)); }));
#pragma omp simd
    for (std::int64_t c = 0; c < y.cols; ++c) dx(r, c) = y(r, c) * (dy(r, c) - mean);
  });
}

}  // namespace

void softmax_forward(Context&, View y, View x) {
  dispatch_float(x.dtype, "softmax_forward", [&]<class T>() { forward(rows<T>(y), rows<const T>(x)); });
}

void softmax_backward(Context&, View dx, View dy, View y) {
  dispatch_float(y.dtype, "softmax_backward",
                 [&]<class T>() { backward(rows<T>(dx), rows<const T>(dy), rows<const T>(y)); });
}

}  // namespace cbq::cpu
