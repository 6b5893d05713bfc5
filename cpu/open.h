// The CPU backend: plain loops with double accumulators in OpenMP threads, matmul through OpenBLAS. The definition that
// every other backend is tested against.
#pragma once

#include <memory>

#include "core/context.h"

namespace cbq::cpu {

// threads = 0 takes as many as the machine (or OMP_NUM_THREADS) offers.
std::unique_ptr<Context> open(int threads = 0, FreshMemory fresh = FreshMemory::as_is);

}  // namespace cbq::cpu
