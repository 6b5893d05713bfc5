// Where exporters take hardened blocks from: the store of a run, or a checkpoint that is packed already.
#include "quant/export.h"

namespace cbq {
namespace {

BlockSpec stored_spec(const Checkpoint& checkpoint, const ModelConfig& config, std::int64_t layer) {
  BlockSpec block;
  block.fill({{16, -1, Symmetry::asymmetric}, {16, Symmetry::symmetric}});
  for (const LinearRole role : linear_roles(config.family)) {
    const StoredScheme s = checkpoint.scheme(linear_name(config, layer, role));
    block[std::size_t(role)] = {{s.wbits, s.group_size, s.symmetry}, {s.abits, s.activation_symmetry}};
  }
  return block;
}

HardBlock stored_block(Context& ctx, const Checkpoint& checkpoint, const ModelConfig& config, const BlockSpec& spec,
                       std::int64_t layer) {
  HardBlock block;
  block.spec = spec;
  block.kv_cache = {checkpoint.kv_bits(), checkpoint.kv_symmetry()};
  const auto load = [&](const std::string& name, std::int64_t count) {
    return checkpoint.load(ctx, name, {count}, DType::f32);
  };
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    const std::string name = linear_name(config, layer, role);
    const Shape shape = weight_shape(config, role);
    if (spec[i].weight.quantised()) {
      const PackedWeight packed = checkpoint.load_packed(ctx, name, shape);
      require_input(packed.group_of.empty(), checkpoint.tensor_text(name),
                    ": expected groups in the order of the columns, found those of an activation order, which only "
                    "GPTQ files hold; quantise without it");
      block.hard[i] = HardWeight{spec[i].weight, packed.codes, packed.scale, packed.zero};
      block.weights[role].weight = dequantise(ctx, *block.hard[i], config.dtype, DType::f32);
    } else {
      block.weights[role].weight = checkpoint.load(ctx, name + ".weight", shape, DType::f32);
    }
    if (has_bias(config, role)) block.weights[role].bias = load(name + ".bias", shape[0]);
    if (spec[i].activation.bits < 16)
      block.activation_factor[std::size_t(site_of(role))] = checkpoint.scheme(name).activation_factor;
  }
  for (const NormRole role : {NormRole::attention, NormRole::mlp}) {
    Norm& norm = role == NormRole::attention ? block.weights.attention_norm : block.weights.mlp_norm;
    const std::string name = norm_name(config, layer, role);
    norm.weight = load(name + ".weight", config.hidden);
    if (config.family == Family::opt) norm.bias = load(name + ".bias", config.hidden);
  }
  return block;
}

}  // namespace

ExportSource finished_blocks(Context& ctx, const Model& source, const RunStore& store,
                             const std::vector<BlockSpec>& specs) {
  return {source.checkpoint(), source.config(), specs,
          [&](std::int64_t layer) { return store.load_block(ctx, source.config(), layer, source.compute()); }};
}

ExportSource packed_blocks(Context& ctx, const Checkpoint& checkpoint, const ModelConfig& config) {
  require_input(!gguf_file(checkpoint.folder()), checkpoint.folder().string(),
                ": expected a folder of safetensors, found a GGUF file, which can be evaluated but not written as "
                "another format");
  std::vector<BlockSpec> specs;
  bool has_integers = false;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    specs.push_back(stored_spec(checkpoint, config, layer));
    for (const LinearSpec& spec : specs.back()) has_integers = has_integers || spec.weight.quantised();
  }
  require_input(has_integers, checkpoint.folder().string(),
                ": expected a packed checkpoint, whose integers any format can be written from, found dense weights");
  return {checkpoint, config, specs, [&ctx, &checkpoint, &config, specs](std::int64_t layer) {
            return stored_block(ctx, checkpoint, config, specs[std::size_t(layer)], layer);
          }};
}

}  // namespace cbq
