// Three kernels, each climbed from the plainest version to the one in cuda/. A rung has the signature of the kernel it
// leads to (core/kernels.h, where the formulas stand) and changes one thing of the rung below; the head of its file
// says what, what that should gain, and why. Rungs take contiguous bf16 at convenient sizes alone, which each states.
#pragma once

#include <type_traits>

#include "core/kernels.h"

namespace cbq::ladder {

template <class Pointer>
using Fn = std::remove_pointer_t<Pointer>;

Fn<decltype(Kernels::rms_norm_forward)> rms_norm_thread_per_row, rms_norm_block_per_row, rms_norm_packs,
    rms_norm_registers;

// quantise_weight_forward without integers.
using WeightKernel = void (*)(Context&, View w_hat, const WeightQuantiser& quantiser);
Fn<WeightKernel> weight_thread_per_row, weight_thread_per_weight, weight_packs, weight_tiles, weight_quotient,
    weight_in_flight;

Fn<decltype(Kernels::attention_forward)> attention_scores, attention_online, attention_tiles, attention_tensor_cores,
    attention_async;

template <class Kernel>
struct Rung {
  const char* name;
  Kernel run;
};

inline constexpr Rung<decltype(Kernels::rms_norm_forward)> kRmsNorm[] = {
    {"1 thread per row", rms_norm_thread_per_row},
    {"2 block per row", rms_norm_block_per_row},
    {"3 16-byte packs", rms_norm_packs},
    {"4 row in registers", rms_norm_registers},
};

inline constexpr Rung<WeightKernel> kWeight[] = {
    {"1 thread per row", weight_thread_per_row},
    {"2 thread per weight", weight_thread_per_weight},
    {"3 16-byte packs", weight_packs},
    {"4 tiles, a2 in registers", weight_tiles},
    {"5 quotient without division", weight_quotient},
    {"6 tile in flight", weight_in_flight},
};

inline constexpr Rung<decltype(Kernels::attention_forward)> kAttention[] = {
    {"1 scores in memory", attention_scores},   {"2 online softmax", attention_online},
    {"3 shared-memory tiles", attention_tiles}, {"4 tensor cores", attention_tensor_cores},
    {"5 asynchronous copies", attention_async},
};

}  // namespace cbq::ladder
