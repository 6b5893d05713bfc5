// Rotary position embedding, Su et al. 2021, eq. 34, on the pairs (x_i, x_{i+D/2}) of each head:
//   y_i = x_i cos - x_{i+D/2} sin,  y_{i+D/2} = x_{i+D/2} cos + x_i sin;  the inverse has -sin for sin.
#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {

void rope(Context&, View y, View x, View cos, View sin, Rotation rotation) {
  dispatch_float(x.dtype, "rope", [&]<class T>() {
    const Heads<T> to = heads<T>(y);
    const Heads<const T> from = heads<const T>(x);
    const Rows<const T> cosines = rows<const T>(cos), sines = rows<const T>(sin);
    const T sign = rotation == Rotation::forward ? T(1) : T(-1);
    const std::int64_t half = from.dim / 2;
    parallel_for(from.batch * from.tokens, x.count(), [&](std::int64_t r) {
      const std::int64_t b = r / from.tokens, t = r % from.tokens;
      const T *c = cosines.row(t), *s = sines.row(t);
      for (std::int64_t h = 0; h < from.heads; ++h) {
        const T* in = from.at(b, t, h);
        T* out = to.at(b, t, h);
#pragma omp simd
        for (std::int64_t i = 0; i < half; ++i) {
          const T low = in[i], high = in[i + half];
          out[i] = low * c[i] - high * (sign * s[i]);
          out[i + half] = high * c[i] + low * (sign * s[i]);
        }
      }
    });
  });
}

}  // namespace cbq::cpu
