// Packed layers as tensors: integers with their grid, and the weight they stand for.
#include "core/kernels.h"
#include "models/config.h"
#include "models/weights.h"

namespace cbq {
namespace {

// Groups whose columns are anywhere become one group a column: (out, in/G) -> (out, in).
void spread_grid(Context& ctx, PackedWeight& weight) {
  const std::int64_t out = weight.codes.size(0), in = weight.codes.size(1), groups = weight.scale.size(1);
  for (Tensor* grid : {&weight.scale, &weight.zero}) {
    const std::vector<float> by_group = to_host<float>(ctx, *grid);
    std::vector<float> by_column(std::size_t(out * in));
    for (std::int64_t r = 0; r < out; ++r)
      for (std::int64_t c = 0; c < in; ++c)
        by_column[std::size_t(r * in + c)] = by_group[std::size_t(r * groups + weight.group_of[std::size_t(c)])];
    *grid = from_host<float>(ctx, {out, in}, DType::f32, by_column);
  }
}

}  // namespace

Tensor Checkpoint::load_gptq_scales(Context& ctx, const std::string& name, const Shape& grid, DType dtype) const {
  const Tensor stored = load(ctx, name, {grid[1], grid[0]}, DType::f32);
  const std::vector<float> by_group = to_host<float>(ctx, round_to(ctx, stored, dtype));
  std::vector<float> by_row(by_group.size());
  for (std::int64_t g = 0; g < grid[1]; ++g)
    for (std::int64_t r = 0; r < grid[0]; ++r)
      by_row[std::size_t(r * grid[1] + g)] = by_group[std::size_t(g * grid[0] + r)];
  return from_host<float>(ctx, grid, DType::f32, by_row);
}

// Readers of GPTQ compute in the dtype that they load the model in, those of compressed-tensors in that of the scale.
PackedWeight Checkpoint::load_packed(Context& ctx, const std::string& name, const Shape& expected) const {
  const StoredScheme stored = scheme(name);
  const PackedCodes packed = read_codes(*this, name, stored, expected);
  const Shape grid{expected[0], stored.group_size < 0 ? 1 : expected[1] / stored.group_size};
  const std::vector<float> zeros(packed.zeros.begin(), packed.zeros.end());
  const std::string scale_name = name + (is_gptq(stored.format) ? ".scales" : ".weight_scale");
  const DType dtype = is_gptq(stored.format) ? read_model_dtype(folder_) : info(scale_name).dtype;
  const Tensor scale =
      is_gptq(stored.format) ? load_gptq_scales(ctx, scale_name, grid, dtype) : load(ctx, scale_name, grid, DType::f32);
  PackedWeight weight{from_host<std::uint8_t>(ctx, expected, DType::u8, packed.codes), scale,
                      from_host<float>(ctx, grid, DType::f32, zeros), packed.group_of, dtype};
  for (const char* suffix : {".weight_packed", ".weight", ".weight_zero_point", ".qweight", ".qzeros"})
    if (contains(name + suffix)) release(name + suffix);
  return weight;
}

Tensor Checkpoint::load_weight(Context& ctx, const std::string& name, const Shape& expected, DType dtype) const {
  if (gguf_) return load(ctx, name + ".weight", expected, dtype);
  const StoredScheme stored = scheme(name);
  if (stored.wbits == 16) {
    for (const char* suffix : {".weight_packed", ".qweight"})
      require_input(!contains(name + suffix), tensor_text(name + suffix),
                    ": quantization_config of config.json has no scheme for this layer");
    return load(ctx, name + ".weight", expected, dtype);
  }
  PackedWeight packed = load_packed(ctx, name, expected);
  if (!packed.group_of.empty()) spread_grid(ctx, packed);
  Tensor w_hat(ctx, expected, DType::f32);
  ctx.kernels->dequantise_weight(ctx, w_hat, packed.codes, {packed.scale, packed.zero, stored.wbits});
  w_hat = round_to(ctx, w_hat, packed.rounded_to);
  return dtype == DType::f32 ? w_hat : convert(ctx, w_hat, dtype);
}

}  // namespace cbq
