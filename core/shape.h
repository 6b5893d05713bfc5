// Sizes of a tensor: up to four dimensions in a fixed array, no heap.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>

#include "core/error.h"

namespace cbq {

class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) {
    for (std::int64_t size : sizes) append(size);
  }

  // One more dimension, behind the last.
  void append(std::int64_t size) {
    require(rank_ < kMaxRank, "shape: at most 4 dimensions are supported");
    require(size >= 0, "shape: a size must not be negative, got ", size);
    sizes_[std::size_t(rank_++)] = size;
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int dim) const {
    require(dim >= 0 && dim < rank_, "shape: dimension ", dim, " does not exist in ", *this);
    return sizes_[std::size_t(dim)];
  }
  std::int64_t count() const {
    std::int64_t n = 1;
    for (int d = 0; d < rank_; ++d) n *= sizes_[std::size_t(d)];
    return n;
  }
  // The matrix view that kernels take: the last dimension is a row's columns, all others together are the rows.
  std::int64_t cols() const { return rank_ == 0 ? 1 : sizes_[std::size_t(rank_ - 1)]; }
  std::int64_t rows() const {
    std::int64_t n = 1;
    for (int d = 0; d + 1 < rank_; ++d) n *= sizes_[std::size_t(d)];
    return n;
  }

  friend bool operator==(const Shape& a, const Shape& b) { return a.rank_ == b.rank_ && a.sizes_ == b.sizes_; }
  friend std::ostream& operator<<(std::ostream& out, const Shape& s) {
    out << '(';
    for (int d = 0; d < s.rank_; ++d) out << (d ? ", " : "") << s.sizes_[std::size_t(d)];
    return out << ')';
  }

 private:
  std::array<std::int64_t, kMaxRank> sizes_{};
  int rank_ = 0;
};

}  // namespace cbq
