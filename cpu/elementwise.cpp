// Elementwise kernels: the formula of each is the lambda it passes to map.
#include "cpu/backend.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace cbq::cpu {

void add(Context&, View y, View a, View b) {
  dispatch_float(y.dtype, "add", [&]<class T>() {
    const auto f = [](T u, T v) { return u + v; };
    map(rows<T>(y), f, rows<const T>(a), rows<const T>(b));
  });
}

void mul(Context&, View y, View a, View b) {
  dispatch_float(y.dtype, "mul", [&]<class T>() {
    const auto f = [](T u, T v) { return u * v; };
    map(rows<T>(y), f, rows<const T>(a), rows<const T>(b));
  });
}

void scale(Context&, View y, View x, double alpha) {
  dispatch_float(y.dtype, "scale", [&]<class T>() {
    const auto f = [factor = T(alpha)](T u) { return factor * u; };
    map(rows<T>(y), f, rows<const T>(x));
  });
}

void scaled_exp(Context&, View y, View base, View x) {
  dispatch_float(y.dtype, "scaled_exp", [&]<class T>() {
    const auto f = [](T start, T u) { return start * cpu::exp(u); };
    map(rows<T>(y), f, rows<const T>(base), rows<const T>(x));
  });
}

void clamp(Context&, View y, View x, double low, double high) {
  dispatch_float(y.dtype, "clamp", [&]<class T>() {
    // Both comparisons are false for NaN.
    const auto f = [lo = T(low), hi = T(high)](T u) { return u < lo ? lo : (u > hi ? hi : u); };
    map(rows<T>(y), f, rows<const T>(x));
  });
}

void scale_rows(Context&, View y, View x, View s) {
  dispatch_float(y.dtype, "scale_rows", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> from = rows<const T>(x);
    const T* factor = elements<const T>(s);
    for_pieces(to.rows, to.cols, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c) to(r, c) = from(r, c) * factor[r];
    });
  });
}

void scale_columns(Context&, View y, View x, View s) {
  dispatch_float(y.dtype, "scale_columns", [&]<class T>() {
    const Rows<T> to = rows<T>(y);
    const Rows<const T> from = rows<const T>(x);
    const T* factor = elements<const T>(s);
    for_pieces(to.rows, to.cols, [&](std::int64_t r, std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c) to(r, c) = from(r, c) * factor[c];
    });
  });
}

}  // namespace cbq::cpu
