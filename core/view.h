// What a kernel sees of a tensor: an address, an element type, sizes and strides. A View owns nothing.
#pragma once

#include <array>
#include <cstdint>

#include "core/dtype.h"
#include "core/shape.h"

namespace cbq {

struct View {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;
  std::array<std::int64_t, Shape::kMaxRank> strides{};  // in elements, one per dimension

  // False for "not wanted": kernels skip outputs, and leave out inputs, whose View is empty.
  explicit operator bool() const { return data != nullptr; }

  std::int64_t count() const { return shape.count(); }
  std::int64_t rows() const { return shape.rows(); }
  std::int64_t cols() const { return shape.cols(); }
  // Elements from one row to the next in the matrix view (rows(), cols()).
  std::int64_t row_stride() const { return shape.rank() < 2 ? cols() : strides[std::size_t(shape.rank() - 2)]; }
};

// A matrix of T whose columns are contiguous. Made by rows<T>(view), which checks.
template <class T>
struct Rows {
  T* data;
  std::int64_t rows, cols, stride;
  T* row(std::int64_t r) const { return data + r * stride; }
  T& operator()(std::int64_t r, std::int64_t c) const { return data[r * stride + c]; }
};

// Heads of an attention operand, (B, T, H, D) with contiguous D. Made by heads<T>(view), which checks.
template <class T>
struct Heads {
  T* data;
  std::int64_t batch, tokens, heads, dim;
  std::int64_t batch_stride, token_stride, head_stride;
  T* at(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return data + b * batch_stride + t * token_stride + h * head_stride;
  }
};

template <class T>
Rows<T> rows(const View& v) {
  const int rank = v.shape.rank();
  require(rank == 0 || v.strides[std::size_t(rank - 1)] == 1 || v.cols() == 1, "rows: columns must be contiguous in ",
          v.shape);
  for (int d = 0; d + 2 < rank; ++d)
    require(v.shape[d] == 1 || v.strides[std::size_t(d)] == v.strides[std::size_t(d + 1)] * v.shape[d + 1],
            "rows: the leading dimensions of ", v.shape, " do not fold into one; call contiguous()");
  return {static_cast<T*>(v.data), v.rows(), v.cols(), v.row_stride()};
}

// All elements of a contiguous view; null for an empty one.
template <class T>
T* elements(const View& v) {
  std::int64_t expected = 1;
  for (int d = v.shape.rank() - 1; v.data && d >= 0; --d) {
    require(v.shape[d] == 1 || v.strides[std::size_t(d)] == expected, "elements: ", v.shape, " is not contiguous");
    expected *= v.shape[d];
  }
  return static_cast<T*>(v.data);
}

template <class T>
Heads<T> heads(const View& v) {
  require(v.shape.rank() == 4 && v.strides[3] == 1, "heads: expected (B, T, H, D) with contiguous D, got ", v.shape);
  return {static_cast<T*>(v.data),
          v.shape[0],
          v.shape[1],
          v.shape[2],
          v.shape[3],
          v.strides[0],
          v.strides[1],
          v.strides[2]};
}

}  // namespace cbq
