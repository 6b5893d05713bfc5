#include "models/model.h"

#include "core/kernels.h"

namespace cbq {
namespace {

Norm load_norm(Context& ctx, const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name,
               DType dtype) {
  Norm norm{checkpoint.load(ctx, name + ".weight", {config.hidden}, dtype), {}};
  if (config.family == Family::opt) norm.bias = checkpoint.load(ctx, name + ".bias", {config.hidden}, dtype);
  return norm;
}

OuterWeights load_outer(Context& ctx, const Checkpoint& checkpoint, const ModelConfig& config, DType dtype) {
  const bool is_opt = config.family == Family::opt;
  const std::string root = is_opt ? "model.decoder." : "model.";
  const std::int64_t C = config.hidden, E = config.embed_dim, V = config.vocab;
  OuterWeights outer;
  outer.embed_tokens = checkpoint.load(ctx, root + "embed_tokens.weight", {V, E}, dtype);
  if (is_opt)
    outer.embed_positions =
        checkpoint.load(ctx, root + "embed_positions.weight", {config.max_positions + kOptPositionOffset, C}, dtype);
  if (E != C) {
    outer.project_in = checkpoint.load_weight(ctx, root + "project_in", {C, E}, dtype);
    outer.project_out = checkpoint.load_weight(ctx, root + "project_out", {E, C}, dtype);
  }
  if (config.family == Family::llama)
    outer.final_norm = load_norm(ctx, checkpoint, config, root + "norm", dtype);
  else if (config.final_norm)
    outer.final_norm = load_norm(ctx, checkpoint, config, root + "final_layer_norm", dtype);
  outer.lm_head = config.tied_head ? outer.embed_tokens : Var(checkpoint.load_weight(ctx, "lm_head", {V, E}, dtype));
  return outer;
}

}  // namespace

Var embed(Context& ctx, const ModelConfig& config, const OuterWeights& outer, const Tensor& ids, std::int64_t batch,
          std::int64_t begin) {
  Var x = ops::embedding(ctx, outer.embed_tokens, ids);
  if (outer.project_in.value) x = ops::linear(ctx, x, outer.project_in);
  x = ops::cast(ctx, x, statistics_dtype(x.value.dtype()));
  if (config.family != Family::opt) return x;
  require(batch > 0 && ids.count() % batch == 0, "embed: ", ids.count(), " ids do not divide into ", batch, " texts");
  std::vector<std::int32_t> positions;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t < ids.count() / batch; ++t)
      positions.push_back(std::int32_t(begin + t + kOptPositionOffset));
  const Tensor rows = from_host<std::int32_t>(ctx, {ids.count()}, DType::i32, positions);
  return ops::add(ctx, x, ops::cast(ctx, ops::embedding(ctx, outer.embed_positions, rows), x.value.dtype()));
}

Var final_hidden(Context& ctx, const ModelConfig& config, const OuterWeights& outer, const Var& x) {
  const Var y = outer.final_norm.weight.value ? normalise(ctx, outer.final_norm, x, config.norm_eps)
                                              : ops::cast(ctx, x, outer.lm_head.value.dtype());
  return outer.project_out.value ? ops::linear(ctx, y, outer.project_out) : y;
}

Tensor logits(Context& ctx, const OuterWeights& outer, const Tensor& final_hidden) {
  const Tensor& head = outer.lm_head.value;
  Tensor y(ctx, {final_hidden.rows(), head.rows()}, statistics_dtype(final_hidden.dtype()));
  ctx.kernels->matmul(ctx, y, final_hidden, Trans::no, head, Trans::yes, {}, {});
  return y;
}

Model::Model(Context& ctx, const std::filesystem::path& folder, DType compute)
    : ctx_(ctx),
      config_(read_model_config(folder)),
      checkpoint_(folder),
      compute_(compute),
      outer_(load_outer(ctx, checkpoint_, config_, compute)) {}

BlockWeights Model::block_weights(std::int64_t i) const {
  require(i >= 0 && i < config_.layers, "block_weights: block ", i, " does not exist, the model has ", config_.layers);
  BlockWeights weights;
  for (const LinearRole role : linear_roles(config_.family)) {
    const std::string name = linear_name(config_, i, role);
    const Shape shape = weight_shape(config_, role);
    weights[role].weight = checkpoint_.load_weight(ctx_, name, shape, compute_);
    if (has_bias(config_, role)) weights[role].bias = checkpoint_.load(ctx_, name + ".bias", {shape[0]}, compute_);
  }
  weights.attention_norm = load_norm(ctx_, checkpoint_, config_, norm_name(config_, i, NormRole::attention), compute_);
  weights.mlp_norm = load_norm(ctx_, checkpoint_, config_, norm_name(config_, i, NormRole::mlp), compute_);
  return weights;
}

void Model::read_ahead(std::int64_t begin, std::int64_t end) const {
  std::vector<std::string> prefixes;
  for (std::int64_t i = begin; i < end; ++i) prefixes.push_back(block_name(config_, i));
  checkpoint_.read_ahead(ctx_, prefixes);
}

std::unique_ptr<DenseBlock> Model::block(std::int64_t i) const {
  auto block = std::make_unique<DenseBlock>(config_, block_weights(i));
  block->kv_cache = {checkpoint_.kv_bits(), checkpoint_.kv_symmetry()};
  for (const LinearRole role : linear_roles(config_.family)) {
    const std::string name = linear_name(config_, i, role);
    const auto roles = linear_roles(config_.family, site_of(role));
    const std::string first_name = linear_name(config_, i, roles.front());
    const StoredScheme scheme = checkpoint_.scheme(name), first = checkpoint_.scheme(first_name);
    require_input(scheme.abits == first.abits && scheme.activation_symmetry == first.activation_symmetry &&
                      scheme.activation_factor == first.activation_factor,
                  checkpoint_.folder().string(), ": config.json: quantization_config: layers \"", first_name,
                  "\" and \"", name, "\" read the same input; expected equal activation schemes, found different ones");
    if (scheme.abits >= 16) continue;
    const DType dtype = statistics_dtype(compute_);
    block->activations[std::size_t(site_of(role))] = {{scheme.abits, scheme.activation_symmetry},
                                                      full(ctx_, {1}, dtype, scheme.activation_factor)};
  }
  return block;
}

}  // namespace cbq
