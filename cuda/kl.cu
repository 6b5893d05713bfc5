// KL divergence of softmaxes, per row:
//   L_r = sum_c p (log p - log q), p = softmax(a), q = softmax(b), log p = a - lse(a), lse(x) = max x + log sum_c
//   exp(x - max x);  da = dL_r p (log p - log q - L_r), db = dL_r (q - p)
//
// In one walk over a row whose maxima A, B are known. With A - B = D + e, D in f32 and e its rounding error, and
// d = (a - b) - D, which is small where p is near q,
//   P = sum_c exp(a - A), Q = sum_c exp(b - B), m = sum_c exp(a - A) d / P:
//   L_r = m - e - log(P / Q),  log p - log q - L_r = d - m.
// L_r is wrong by about 1e-7, the error of the exponentials; da by 1e-7 of itself, db by 1e-7 of the larger of p and q.
#include "cuda/row_softmax.cuh"

namespace cbq::cuda {
namespace {

// The sum of two f32 numbers, for digits that one cannot hold.
struct Split {
  float high, low;
};

// x - y with its rounding error (Knuth's TwoSum).
__device__ Split split_difference(float x, float y) {
  const float high = x - y, back = high - x;
  return {high, isfinite(high) ? (x - (high - back)) - (y + back) : 0.0f};
}

// x - y - shift, wrong by about an ulp of the result: y may be x plus a large constant. For x and y of bf16 x - y is
// exact as it is, but for exponents more than 16 apart.
template <class T>
__device__ float difference(float x, float y, float shift) {
  if constexpr (std::is_same_v<T, bf16>) return x - y - shift;
  const Split exact = split_difference(x, y);
  return (exact.high - shift) + exact.low;
}

struct KlRow {
  float largest_a, largest_b;
  Split pivot;                   // D, e
  double sum_a, sum_b, sum_a_d;  // P, Q, P m; the last is 0 where it is not wanted
};

// What belongs to the full-precision model, whose logits a have no gradient, needs only the two softmaxes.
enum class Divergence { skipped, wanted };

// Two fast_exp an element. What a thread holds is summed in f32, all else in double: conversions run at the speed of
// fast_exp.
template <Divergence kDivergence, class S, class T>
__device__ KlRow kl_row(const RowIn<S, T>& a, const RowIn<S, T>& b, std::int64_t cols) {
  constexpr int N = S::kPack, kSums = kDivergence == Divergence::wanted ? 3 : 2;
  float largest[2] = {-INFINITY, -INFINITY};
  walk<S>(cols, [&](int i, auto c) {
    largest[0] = fmaxf(largest[0], largest_of(a.raw(i, c)));
    largest[1] = fmaxf(largest[1], largest_of(b.raw(i, c)));
  });
  row_reduce<S>(largest, Max());

  const Split pivot = split_difference(largest[0], largest[1]);
  std::conditional_t<S::kHeld, float, double> of_thread[kSums] = {};
  walk<S>(cols, [&](int i, auto c) {
    const Pack<float, N> u = a.at(i, c), v = b.at(i, c);
    float of_pack[3] = {};
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float p = fast_exp(u.v[k] - largest[0]);
      of_pack[0] += p;
      of_pack[1] += fast_exp(v.v[k] - largest[1]);
      if constexpr (kDivergence == Divergence::wanted) of_pack[2] += p * difference<T>(u.v[k], v.v[k], pivot.high);
    }
#pragma unroll
    for (int k = 0; k < kSums; ++k) of_thread[k] += of_pack[k];
  });
  double sums[kSums];
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums[k] = double(of_thread[k]);
  row_reduce<S>(sums, Sum());
  return {largest[0], largest[1], pivot, sums[0], sums[1], kSums == 3 ? sums[kSums - 1] : 0};
}

// Floor: a and b read. Both rows are held from the maxima to the sums. log(P / Q) = log1p((P - Q) / Q), of which f32
// has the digits that count once P - Q is known: double would keep one thread and its block for a microsecond.
template <class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    kl_forward_kernel(float* loss, Rows<const T> a, Rows<const T> b) {
  await_previous();
  take_row<S>(a.rows, [&](std::int64_t r) {
    const RowIn<S, T> of_a(row_of(a, r), a.cols), of_b(row_of(b, r), a.cols);
    const KlRow row = kl_row<Divergence::wanted>(of_a, of_b, a.cols);
    if (threadIdx.x == 0)
      loss[r] = float(row.sum_a_d) / float(row.sum_a) - row.pivot.low -
                log1pf(float(row.sum_a - row.sum_b) / float(row.sum_b));
  });
}

// Floor: a and b read, db and a wanted da written. Four fast_exp an element take 18 us for 2^24 elements, which move in
// 23 us.
template <Divergence kDivergence, class S, class T>
__global__ void __launch_bounds__(S::kBlockThreads, S::kBlocksPerSm)
    kl_backward_kernel(Rows<T> da, Rows<T> db, const float* dloss, Rows<const T> a, Rows<const T> b) {
  await_previous();
  constexpr int N = S::kPack;
  take_row<S>(a.rows, [&](std::int64_t r) {
    const RowIn<S, T> of_a(row_of(a, r), a.cols), of_b(row_of(b, r), a.cols);
    const KlRow row = kl_row<kDivergence>(of_a, of_b, a.cols);
    const float seed = dloss[r], per_p = 1 / float(row.sum_a), per_q = 1 / float(row.sum_b);
    [[maybe_unused]] const float mean = float(row.sum_a_d) * per_p;
    walk<S>(a.cols, [&](int i, auto c) {
      const Pack<float, N> u = of_a.at(i, c), v = of_b.at(i, c);
      [[maybe_unused]] Pack<T, N> to_a;
      Pack<T, N> to_b;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        const float p = fast_exp(u.v[k] - row.largest_a) * per_p, q = fast_exp(v.v[k] - row.largest_b) * per_q;
        if constexpr (kDivergence == Divergence::wanted)
          to_a.v[k] = from_float<T>(seed * p * (difference<T>(u.v[k], v.v[k], row.pivot.high) - mean));
        to_b.v[k] = from_float<T>(seed * (q - p));
      }
      if constexpr (kDivergence == Divergence::wanted) store_pack(row_of(da, r) + c, to_a);
      if (db.data) store_pack(row_of(db, r) + c, to_b);
    });
  });
}

}  // namespace

void kl_forward(Context& ctx, View loss, View a, View b) {
  if (a.rows() == 0) return;
  dispatch_value(a.dtype, "kl_forward", [&]<class T>() {
    const Rows<const T> x = rows<const T>(a), y = rows<const T>(b);
    const auto run = [&]<class S>(S) {
      launch_dependent("kl_forward", ctx, S::rows(x.rows), kl_forward_kernel<S, T>, elements<float>(loss), x, y);
    };
    dispatch_row<T>(x.cols, run, x, y);
  });
}

void kl_backward(Context& ctx, View da, View db, View dloss, View a, View b) {
  if (a.rows() == 0 || (!da && !db)) return;
  dispatch_value(a.dtype, "kl_backward", [&]<class T>() {
    const Rows<T> dx = rows<T>(da), dy = rows<T>(db);
    const Rows<const T> x = rows<const T>(a), y = rows<const T>(b);
    const auto run = [&]<class S>(S) {
      const auto kernel =
          da ? kl_backward_kernel<Divergence::wanted, S, T> : kl_backward_kernel<Divergence::skipped, S, T>;
      launch_dependent("kl_backward", ctx, S::rows(x.rows), kernel, dx, dy, elements<const float>(dloss), x, y);
    };
    dispatch_row<T>(x.cols, run, dx, dy, x, y);
  });
}

}  // namespace cbq::cuda
