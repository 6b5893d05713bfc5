// The two kinds of norm of a model.
#pragma once

#include "autograd/ops.h"

namespace cbq {

struct Norm {
  Var weight;  // (C)
  Var bias;    // (C), LayerNorm only
};

// LayerNorm of x where the norm has a bias, else RMSNorm: computed in the type of x, rounded to that of the norm, which
// may be narrower where models are measured (models/block.h).
Var normalise(Context& ctx, const Norm& norm, const Var& x, double eps);

}  // namespace cbq
