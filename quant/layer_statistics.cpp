#include "quant/layer_statistics.h"

#include <algorithm>
#include <cmath>

#include "core/kernels.h"

namespace cbq {
namespace {

double mean_square(Context& ctx, const Tensor& a, const Tensor& b) {
  const Tensor mean(ctx, {1}, statistics_dtype(a.dtype()));
  ctx.kernels->mse_forward(ctx, mean, a, b);
  return to_host<double>(ctx, mean)[0];
}

double share_of_different(Context& ctx, const Tensor& a, const Tensor& b) {
  const Tensor count(ctx, {1}, DType::i32);
  ctx.kernels->count_different(ctx, count, a, b);
  return double(to_host<std::int32_t>(ctx, count)[0]) / double(a.count());
}

// Step sizes over those of the whole range, ascending. A group of zeros has a step size that means nothing: 1.
std::vector<double> clip_ratios(Context& ctx, const Tensor& w, const HardWeight& hard) {
  const Tensor whole(ctx, hard.scale.shape(), hard.scale.dtype()), zero(ctx, hard.scale.shape(), hard.scale.dtype());
  ctx.kernels->start_grid(ctx, whole, zero, w, hard.spec.bits, hard.spec.symmetry, 1, 1);
  std::vector<double> ratios = to_host<double>(ctx, hard.scale);
  const std::vector<double> of_range = to_host<double>(ctx, whole);
  for (std::size_t i = 0; i < ratios.size(); ++i) ratios[i] = of_range[i] > 0 ? ratios[i] / of_range[i] : 1;
  std::sort(ratios.begin(), ratios.end());
  return ratios;
}

}  // namespace

LayerStatistics layer_statistics(Context& ctx, const Tensor& w, const HardWeight& hard, DType stored, Rounder rounder) {
  HardWeight nearest{hard.spec, Tensor(ctx, w.shape(), DType::u8), hard.scale, hard.zero};
  ctx.kernels->weight_codes(ctx, nearest.codes, {w, {hard.scale, hard.zero, hard.spec.bits}, rounder, {}});
  const double square = mean_square(ctx, full(ctx, w.shape(), w.dtype(), 0), w);
  const auto error = [&](const HardWeight& integers) {
    const double distance = mean_square(ctx, dequantise(ctx, integers, stored, w.dtype()), w);
    return square > 0 ? std::sqrt(distance / square) : 0;
  };
  const std::vector<double> clips = clip_ratios(ctx, w, hard);
  return {.error = error(hard),
          .nearest_error = error(nearest),
          .moved_share = share_of_different(ctx, hard.codes, nearest.codes),
          .clip_lowest = clips.front(),
          .clip_median = clips[clips.size() / 2],
          .clip_highest = clips.back()};
}

}  // namespace cbq
