// The softmax of a row held in registers.
#pragma once

#include <cfloat>

#include "cuda/row.cuh"

namespace cbq::cuda {

// softmax(x)_c = fast_exp(x_c - largest) / sum
struct RowSoftmax {
  float largest;
  double sum;
};

// In one walk: each thread keeps the largest element so far and the sum of exp(x - largest), scaled down whenever the
// largest grows. NaN never becomes the largest, but every NaN reaches the sum. The walk starts from -FLT_MAX, not from
// -infinity, so that a thread which meets -infinity alone adds 0 and not NaN.
template <class S, class T>
__device__ RowSoftmax row_softmax(const RowIn<S, T>& x, std::int64_t cols) {
  float largest = -FLT_MAX, sum = 0;
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, S::kPack> in = x.at(i, c);
    const float above = fmaxf(largest, largest_of(x.raw(i, c)));
    float of_pack = 0;
#pragma unroll
    for (int k = 0; k < S::kPack; ++k) of_pack += fast_exp(in.v[k] - above);
    sum = sum * fast_exp(largest - above) + of_pack;
    largest = above;
  });
  const float of_row = row_reduce<S>(largest, Max());
  return {of_row, row_reduce<S>(double(sum * fast_exp(largest - of_row)), Sum())};
}

}  // namespace cbq::cuda
