#include "quant/gguf_scheme.h"

#include <algorithm>

#include "quant/export_format.h"

namespace cbq {
namespace {

bool is_asymmetric(const WeightSpec& spec) {
  return spec.symmetry == Symmetry::asymmetric;
}

}  // namespace

GgmlType gguf_type(const WeightSpec& spec, const Shape& weight, DType stored) {
  if (!spec.quantised() || weight[1] % kGgmlBlock != 0) return ggml_type(stored);
  if (spec.bits <= 3 || (spec.bits == 4 && !is_asymmetric(spec))) return GgmlType::q4_0;
  return spec.bits == 4 ? GgmlType::q4_1 : GgmlType::q8_0;
}

std::string gguf_obstacle(const ModelConfig& config, const std::vector<BlockSpec>& specs, int kv_bits) {
  if (config.family != Family::llama) return concat("the architecture ", config.architecture);
  if (config.dtype == DType::f64) return "float64 tensors";
  if (kv_bits < 16) return concat("a cache of ", kv_bits, " bits");
  std::string obstacle;
  for_each_linear(config, specs, [&](const std::string& name, LinearRole role, const LinearSpec& spec) {
    if (!obstacle.empty()) return;
    if (spec.activation.bits < 16) obstacle = concat("activations of ", spec.activation.bits, " bits (", name, ")");
    if (!is_quantised(gguf_type(spec.weight, weight_shape(config, role), config.dtype))) return;
    if (spec.weight.bits == 8 && is_asymmetric(spec.weight))
      obstacle = concat("asymmetric weights of 8 bits (", name, ")");
    if (spec.weight.group_size > 0 && spec.weight.group_size % kGgmlBlock != 0)
      obstacle = concat("groups of ", spec.weight.group_size, " (", name, "), only for multiples of ", kGgmlBlock,
                        " and whole rows");
  });
  return obstacle;
}

bool holds_rounded_offsets(const std::vector<BlockSpec>& specs) {
  return std::ranges::any_of(specs, [](const BlockSpec& block) {
    return std::ranges::any_of(
        block, [](const LinearSpec& spec) { return spec.weight.bits == 4 && is_asymmetric(spec.weight); });
  });
}

std::vector<std::byte> gguf_blocks(Context& ctx, const HardWeight& hard, GgmlType type, const std::string& name,
                                   const std::function<std::int64_t(std::int64_t)>& row_of) {
  const std::int64_t out = hard.codes.size(0), in = hard.codes.size(1), groups = hard.scale.size(1);
  const std::int64_t row_blocks = in / kGgmlBlock, bytes = block_bytes(type);
  const auto codes = to_host<std::uint8_t>(ctx, hard.codes);
  const auto scales = to_host<float>(ctx, hard.scale), zeros = to_host<float>(ctx, hard.zero);
  for (const float scale : scales)
    require(f16_to_f32(f32_to_f16(scale)) == scale, "export: ", name, ": found a step size of ", scale,
            ", which f16 does not hold");
  std::vector<std::byte> file(std::size_t(out * row_blocks * bytes));
#pragma omp parallel for
  for (std::int64_t r = 0; r < out; ++r) {
    const std::int64_t row = row_of(r);
    for (std::int64_t b = 0; b < row_blocks; ++b) {
      const auto group = std::size_t(row * groups + b * groups / row_blocks);
      const float zero = zeros[group];
      GgmlBlock block;
      block.d = f32_to_f16(scales[group]);
      // Q4_1 keeps q and adds m; the others keep q - z.
      if (type == GgmlType::q4_1) block.m = f32_to_f16(-zero * f16_to_f32(block.d));
      const int shift = type == GgmlType::q4_1 ? 0 : type == GgmlType::q4_0 ? 8 - int(zero) : -int(zero);
      for (std::int64_t i = 0; i < kGgmlBlock; ++i)
        block.codes[std::size_t(i)] = std::int8_t(codes[std::size_t(row * in + b * kGgmlBlock + i)] + shift);
      pack_block(type, block, std::span(file).subspan(std::size_t((r * row_blocks + b) * bytes), std::size_t(bytes)));
    }
  }
  return file;
}

}  // namespace cbq
