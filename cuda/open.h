// The CUDA backend: handwritten kernels, matmul through cuBLASLt.
#pragma once

#include <memory>

#include "core/context.h"

namespace cbq::cuda {

// Opens GPU `device`. Errors (bad_input): built without CUDA; no driver or one older than the toolkit; no such GPU; a
// compute capability the program was not built for.
std::unique_ptr<Context> open(int device = 0, FreshMemory fresh = FreshMemory::as_is);

}  // namespace cbq::cuda
