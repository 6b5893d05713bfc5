// Where a weight's grid starts, and the learned clips on it.
//
// Start: of the ratios in [min_ratio, 1], evenly spaced, the one whose grid on ratio * (lo, hi) rounds a group with the
// least sum (w - w_hat)^2; N = 2^bits - 1:
//   symmetric:  s = ratio max|w| / (N/2), z = 2^(bits-1)
//   asymmetric: s = ratio (hi - lo) / N, lo = min(0, min w), hi = max(0, max w), z = clip(round(-ratio lo / s), 0, N)
// Clips (AutoRound 2309.05516, eq. 5): see clip_grid_forward in core/kernels.h. With a = high zmax + low z0:
//   asymmetric: s = a s0 / N, z = round(low z0 N / a)
//   ds/dlow = z0 s0 / N, ds/dhigh = zmax s0 / N, dz/dlow = N z0 zmax high / a^2, dz/dhigh = -N z0 zmax low / a^2
#include <cfloat>

#include "cuda/rounding_weight.cuh"
#include "cuda/sum.cuh"

namespace cbq::cuda {
namespace {

struct GroupGrid {
  float s, z;
};

// Grid on the range (low, high), low <= 0 <= high. s is a normal number, whatever the range; NaN stays.
__device__ GroupGrid grid_on(float low, float high, int bits, Symmetry symmetry) {
  const float last = float((1 << bits) - 1);
  const bool symmetric = symmetry == Symmetry::symmetric;
  const float s = symmetric ? fmaxf(-low, high) / (last / 2) : (high - low) / last;
  const float step = s == 0 ? 1.0f : s < FLT_MIN ? FLT_MIN : s > FLT_MAX ? FLT_MAX : s;
  const float z = rintf(-low / step);
  return {step, symmetric ? float(1 << (bits - 1)) : z > last ? last : z};
}

struct MinNan {
  __device__ float operator()(float a, float b) const { return min_nan(a, b); }
};
struct MaxNan {
  __device__ float operator()(float a, float b) const { return max_nan(a, b); }
};

struct Search {
  int bits;
  Symmetry symmetry;
  double min_ratio;
  int steps;
};

// A group spread over the threads of a block: in registers, kValues of them a thread, or with kValues = 0 read again by
// each walk. Places behind the group hold 0, which lies on every grid.
template <int kThreads, int kValues, class T>
class BlockGroup {
 public:
  __device__ BlockGroup(const T* group, std::int64_t count) : group_(group), count_(count) {
    if constexpr (kValues > 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        const int place = i * kThreads + int(threadIdx.x);
        value_[i] = place < count_ ? to_float(group_[place]) : 0.0f;
      }
    }
  }

  template <class Visit>
  __device__ void each(const Visit& visit) const {
    if constexpr (kValues > 0) {
#pragma unroll
      for (int i = 0; i < kValues; ++i) visit(value_[i]);
    } else {
      for (std::int64_t i = threadIdx.x; i < count_; i += kThreads) visit(to_float(group_[i]));
    }
  }

 private:
  const T* group_;
  std::int64_t count_;
  float value_[kValues > 0 ? kValues : 1];
};

// sum (w - w_hat)^2 of round-to-nearest, the same in all threads; within a thread in float and in units of s^2, so that
// neither tiny nor huge weights leave the range of float.
template <int kThreads, class Group>
__device__ double rounding_error(const Group& group, const GroupGrid& grid, float last, float largest_fast) {
  const Step step = make_step(grid.s, grid.s, grid.z, largest_fast).with(last);
  float sum = 0;
  const auto add = [&](float ratio) {
    const float error = ratio - nearest_on_grid(ratio, step);
    sum = fmaf(error, error, sum);
  };
  if (step.inverse != 0)
    group.each([&](float w) { add(fast_quotient(w, step)); });
  else
    group.each([&](float w) { add(w / step.s); });
  return block_reduce<kThreads>(double(sum), Sum()) * double(step.s) * double(step.s);
}

template <int kThreads, class Group>
__device__ GroupGrid best_grid(const Group& group, const Search& search) {
  float low = 0, high = 0;
  group.each([&](float w) { low = min_nan(low, w), high = max_nan(high, w); });
  low = block_reduce<kThreads>(low, MinNan()), high = block_reduce<kThreads>(high, MaxNan());
  const float last = float((1 << search.bits) - 1), poison = (low - low) + (high - high);
  low += poison, high += poison;  // NaN where a weight is not finite
  GroupGrid best = grid_on(low, high, search.bits, search.symmetry);
  if (search.steps == 1 || low == high) return best;
  // No quotient overflows: |w| is at most the largest code times 1 / min_ratio in units of s.
  const float largest_fast = search.min_ratio >= 0x1p-40 ? kLargestFastStep<Rounder::straight_through> : 0;
  double least = rounding_error<kThreads>(group, best, last, largest_fast);
  for (int i = 1; i < search.steps; ++i) {  // from the largest ratio down: the first of equals stays
    const float ratio = float(1 - double(i) * (1 - search.min_ratio) / double(search.steps - 1));
    const GroupGrid grid = grid_on(ratio * low, ratio * high, search.bits, search.symmetry);
    const double error = rounding_error<kThreads>(group, grid, last, largest_fast);
    if (error < least) least = error, best = grid;
  }
  return best;
}

// A block a group, w read once. The candidates cost about 12 instructions a weight each, far more than the read: a
// search of 40 over a layer is bound by arithmetic.
template <int kThreads, int kValues, class T>
__global__ void __launch_bounds__(kThreads)
    start_kernel(Rows<float> scale, Rows<float> zero, Rows<const T> w, Search search) {
  const std::int64_t count = w.cols / scale.cols;
  for (std::int64_t i = blockIdx.x; i < scale.rows * scale.cols; i += gridDim.x) {
    const std::int64_t r = i / scale.cols, g = i - r * scale.cols;
    const BlockGroup<kThreads, kValues, T> group(row_of(w, r) + g * count, count);
    const GroupGrid grid = best_grid<kThreads>(group, search);
    if (threadIdx.x == 0) row_of(scale, r)[g] = grid.s, row_of(zero, r)[g] = grid.z;
  }
}

// Calls fn.template operator()<kThreads, kValues>() for groups of `count` weights.
template <class Fn>
void dispatch_group(std::int64_t count, const Fn& fn) {
  if (count <= 32 * 4) return fn.template operator()<32, 4>();
  if (count <= 32 * 32) return fn.template operator()<32, 32>();
  if (count <= 256 * 32) return fn.template operator()<256, 32>();
  if (count <= 512 * 64) return fn.template operator()<512, 64>();
  fn.template operator()<512, 0>();
}

struct Clips {
  const float *scale0, *zero0, *low, *high;
  float last;
  Symmetry symmetry;
};

__global__ void clip_forward_kernel(float* scale, float* zero, std::int64_t count, Clips x) {
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const float s0 = x.scale0[i], z0 = x.zero0[i], low = x.low[i], high = x.high[i];
    const float a = high * (x.last - z0) + low * z0;
    const bool symmetric = x.symmetry == Symmetry::symmetric;
    scale[i] = symmetric ? high * s0 : a * s0 / x.last;
    zero[i] = symmetric ? z0 : rintf(low * z0 * x.last / a);
  }
}

// Null gradients: of the inputs they are zero, of the outputs not wanted.
__global__ void clip_backward_kernel(float* dlow, float* dhigh, const float* dscale, const float* dzero,
                                     std::int64_t count, Clips x) {
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const float s0 = x.scale0[i], z0 = x.zero0[i], low = x.low[i], high = x.high[i];
    const float ds = dscale ? dscale[i] : 0.0f, dz = dzero ? dzero[i] : 0.0f;
    const float zmax = x.last - z0, a = high * zmax + low * z0, slope = x.last * z0 * zmax / (a * a);
    const bool symmetric = x.symmetry == Symmetry::symmetric;
    if (dlow) dlow[i] = symmetric ? 0.0f : ds * z0 * s0 / x.last + dz * slope * high;
    if (dhigh) dhigh[i] = symmetric ? ds * s0 : ds * zmax * s0 / x.last - dz * slope * low;
  }
}

Clips make_clips(const View& scale0, const View& zero0, const View& low, const View& high, int bits,
                 Symmetry symmetry) {
  return {elements<const float>(scale0), elements<const float>(zero0), elements<const float>(low),
          elements<const float>(high),   float((1 << bits) - 1),       symmetry};
}

}  // namespace

void start_grid(Context& ctx, View scale, View zero, View w, int bits, Symmetry symmetry, double min_ratio, int steps) {
  require(steps >= 1 && min_ratio > 0 && min_ratio <= 1, "start_grid: expected steps >= 1 and a ratio in (0, 1], got ",
          steps, " and ", min_ratio);
  if (scale.count() == 0) return;
  dispatch_value(w.dtype, "start_grid", [&]<class T>() {
    const Rows<const T> x = rows<const T>(w);
    dispatch_group(x.cols / scale.cols(), [&]<int kThreads, int kValues>() {
      const unsigned blocks = unsigned(std::min<std::int64_t>(scale.count(), 1 << 30));
      launch("start_grid", ctx, {blocks, kThreads}, start_kernel<kThreads, kValues, T>, rows<float>(scale),
             rows<float>(zero), x, Search{bits, symmetry, min_ratio, steps});
    });
  });
}

void clip_grid_forward(Context& ctx, View scale, View zero, View scale0, View zero0, View low, View high, int bits,
                       Symmetry symmetry) {
  if (scale.count() == 0) return;
  launch("clip_grid_forward", ctx, shape_for(scale.count()), clip_forward_kernel, elements<float>(scale),
         elements<float>(zero), scale.count(), make_clips(scale0, zero0, low, high, bits, symmetry));
}

void clip_grid_backward(Context& ctx, View dlow, View dhigh, View dscale, View dzero, View scale0, View zero0, View low,
                        View high, int bits, Symmetry symmetry) {
  if (scale0.count() == 0) return;
  launch("clip_grid_backward", ctx, shape_for(scale0.count()), clip_backward_kernel, elements<float>(dlow),
         elements<float>(dhigh), elements<const float>(dscale), elements<const float>(dzero), scale0.count(),
         make_clips(scale0, zero0, low, high, bits, symmetry));
}

}  // namespace cbq::cuda
