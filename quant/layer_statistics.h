// What became of one linear layer, in numbers for the report.
#pragma once

#include "quant/rounding.h"

namespace cbq {

struct LayerStatistics {
  double error;          // |w_hat - w| / |w|, Frobenius norms
  double nearest_error;  // the same for round-to-nearest on the final grid
  double moved_share;    // of the integers, those that differ from round-to-nearest on the final grid
  // Step size over that of the group's whole range: below 1 the grid clips. Over all groups.
  double clip_lowest, clip_median, clip_highest;
};

// w (out, in) as it was given to the rounding; w_hat is what a file of `stored` gives back. `rounder` as the kind
// rounds, so that ties, such as the ends of a symmetric range, do not count as moved.
LayerStatistics layer_statistics(Context& ctx, const Tensor& w, const HardWeight& hard, DType stored, Rounder rounder);

}  // namespace cbq
