// Losses. Softmaxes are taken less the row's maximum, so that nothing overflows: lse(x) = max x + log sum_c exp(x - max
// x).
//
//   mse           L = mean((a - b)^2);                          da = 2 dL (a - b) / count, db = -da
//   kl            L_r = sum_c p (log p - log q), p = softmax(a), q = softmax(b), log p = a - lse(a);
//                 da = dL_r p (log p - log q - L_r), db = dL_r (q - p)
//   cross entropy L_r = lse(x) - x_target;                      dx = dL_r (softmax(x) - onehot(target)); 0 if target <
//   0
#include <cmath>
#include <limits>

#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {
namespace {

// softmax(x)_c = exp(x_c - largest) / sum, lse = largest + log(sum)
template <class T>
struct Softmax {
  T largest;
  double sum;
  double lse() const { return double(largest) + std::log(sum); }
};

// NaN never becomes the maximum, but every NaN reaches the sum.
template <class T>
Softmax<T> softmax_of(const T* x, std::int64_t count) {
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (std::int64_t c = 0; c < count; ++c) largest = x[c] > largest ? x[c] : largest;
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < count; ++c) sum += double(cpu::exp(x[c] - largest));
  return {largest, sum};
}

// sum_c p (log p - log q). The differences are taken in double: they are small where the loss is.
template <class T>
double kl_of_row(const T* a, const T* b, std::int64_t count, Softmax<T> p, Softmax<T> q) {
  const double shift = p.lse() - q.lse();
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < count; ++c)
    sum += double(cpu::exp(a[c] - p.largest)) * (double(a[c]) - double(b[c]) - shift);
  return sum / p.sum;
}

template <class T>
void kl_gradient_of_row(T* da, T* db, T dloss, const T* a, const T* b, std::int64_t count) {
  const Softmax<T> p = softmax_of(a, count), q = softmax_of(b, count);
  const T per_p = T(1 / p.sum), per_q = T(1 / q.sum);
  if (da) {
    const double shift = p.lse() - q.lse() + kl_of_row(a, b, count, p, q);
#pragma omp simd
    for (std::int64_t c = 0; c < count; ++c)
      da[c] = dloss * (cpu::exp(a[c] - p.largest) * per_p) * T(double(a[c]) - double(b[c]) - shift);
  }
  if (db) {
#pragma omp simd
    for (std::int64_t c = 0; c < count; ++c)
      db[c] = dloss * (cpu::exp(b[c] - q.largest) * per_q - cpu::exp(a[c] - p.largest) * per_p);
  }
}

void check_targets(const std::int32_t* target, std::int64_t count, std::int64_t classes) {
  for (std::int64_t r = 0; r < count; ++r)
    require(target[r] < classes, "cross_entropy: target ", target[r], " of row ", r, " is outside the ", classes,
            " columns");
}

}  // namespace

void mse_forward(Context&, View loss, View a, View b) {
  dispatch_float(a.dtype, "mse_forward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(a), y = rows<const T>(b);
    const double sum = sum_elements(x.rows, x.cols, [x, y](std::int64_t r, std::int64_t c) {
      const double difference = double(x(r, c)) - double(y(r, c));
      return difference * difference;
    });
    *elements<T>(loss) = T(sum / double(a.count()));
  });
}

void mse_backward(Context&, View da, View db, View dloss, View a, View b) {
  dispatch_float(a.dtype, "mse_backward", [&]<class T>() {
    const T slope = T(2 * double(*elements<const T>(dloss)) / double(a.count()));
    const auto write = [&](View to, T factor) {
      if (to) {
        const auto f = [factor](T x, T y) { return factor * (x - y); };
        map(rows<T>(to), f, rows<const T>(a), rows<const T>(b));
      }
    };
    write(da, slope);
    write(db, -slope);
  });
}

void kl_forward(Context&, View loss, View a, View b) {
  dispatch_float(a.dtype, "kl_forward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(a), y = rows<const T>(b);
    T* to = elements<T>(loss);
    parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
      const T *of_a = x.row(r), *of_b = y.row(r);
      to[r] = T(kl_of_row(of_a, of_b, x.cols, softmax_of(of_a, x.cols), softmax_of(of_b, x.cols)));
    });
  });
}

void kl_backward(Context&, View da, View db, View dloss, View a, View b) {
  dispatch_float(a.dtype, "kl_backward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(a), y = rows<const T>(b);
    const Rows<T> dx = rows<T>(da), dy = rows<T>(db);
    const T* seed = elements<const T>(dloss);
    parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
      kl_gradient_of_row(dx.data ? dx.row(r) : nullptr, dy.data ? dy.row(r) : nullptr, seed[r], x.row(r), y.row(r),
                         x.cols);
    });
  });
}

void cross_entropy_forward(Context&, View loss, View logits, View targets) {
  dispatch_float(logits.dtype, "cross_entropy_forward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(logits);
    const std::int32_t* target = elements<const std::int32_t>(targets);
    T* to = elements<T>(loss);
    check_targets(target, x.rows, x.cols);
    parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
      if (target[r] < 0) {
        to[r] = 0;
        return;
      }
      const Softmax<T> p = softmax_of(x.row(r), x.cols);
      to[r] = T(std::log(p.sum) + (double(p.largest) - double(x(r, target[r]))));
    });
  });
}

void cross_entropy_backward(Context&, View dlogits, View dloss, View logits, View targets) {
  dispatch_float(logits.dtype, "cross_entropy_backward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(logits);
    const Rows<T> dx = rows<T>(dlogits);
    const T* seed = elements<const T>(dloss);
    const std::int32_t* target = elements<const std::int32_t>(targets);
    check_targets(target, x.rows, x.cols);
    parallel_for(x.rows, x.rows * x.cols, [&](std::int64_t r) {
      if (target[r] < 0) {
        std::fill_n(dx.row(r), x.cols, T(0));
        return;
      }
      const Softmax<T> p = softmax_of(x.row(r), x.cols);
      const T per_p = T(1 / p.sum);
#pragma omp simd
      for (std::int64_t c = 0; c < x.cols; ++c) dx(r, c) = seed[r] * (cpu::exp(x(r, c) - p.largest) * per_p);
      dx(r, target[r]) = seed[r] * (cpu::exp(x(r, target[r]) - p.largest) * per_p - 1);
    });
  });
}

}  // namespace cbq::cpu
