// SiLU and its derivative: x S(x) and S(x) (1 + x (1 - S(x))), S(x) = 1 / (1 + e^-x).
#pragma once

#include "cpu/vector_math.h"

namespace cbq::cpu {

struct Silu {
  template <class T>
  static T f(T x) {
    return x * sigmoid(x);
  }
  template <class T>
  static T slope(T x) {
    const T s = sigmoid(x);
    return s * (1 + x * (1 - s));
  }
};

}  // namespace cbq::cpu
