// Conditions on the inputs of an op that several ops share. Each error names the op.
#pragma once

#include "autograd/tape.h"

namespace cbq::ops {

inline void require_float(const char* op, const char* what, const Tensor& x) {
  require(bool(x), op, ": ", what, " is empty, expected a tensor");
  require(is_float(x.dtype()), op, ": expected floats in ", what, ", got ", x.dtype(), " ", x.shape());
}

inline void require_matrix(const char* op, const char* what, const Tensor& x) {
  require_float(op, what, x);
  require(x.shape().rank() == 2, op, ": expected a matrix for ", what, ", got ", x.shape());
}

inline void require_tensor(const char* op, const char* what, const Tensor& x, const Shape& shape, DType dtype) {
  require_float(op, what, x);
  require(x.shape() == shape && x.dtype() == dtype, op, ": expected ", what, " ", shape, " ", dtype, ", got ",
          x.shape(), " ", x.dtype());
}

// b has the shape and dtype of a.
inline void require_alike(const char* op, const Tensor& a, const Tensor& b) {
  require_float(op, "the first input", a);
  require_tensor(op, "the second input", b, a.shape(), a.dtype());
}

inline void require_bits(const char* op, int bits, int most) {
  require(bits >= 2 && bits <= most, op, ": expected 2 to ", most, " bits, got ", bits);
}

// With eps = 0 a row of zeros would give NaN.
inline void require_norm(const char* op, const Tensor& x, double eps) {
  require_float(op, "x", x);
  require(x.cols() > 0, op, ": x ", x.shape(), " has no columns");
  require(eps > 0, op, ": eps must be positive, got ", eps);
}

}  // namespace cbq::ops
