#include "models/block.h"

#include <algorithm>

#include "core/kernels.h"
#include "models/families.h"

namespace cbq {
namespace {

constexpr std::array<LinearRole, 7> kLlamaRoles = {LinearRole::q,    LinearRole::k,  LinearRole::v,   LinearRole::o,
                                                   LinearRole::gate, LinearRole::up, LinearRole::down};
constexpr std::array<LinearRole, 6> kOptRoles = {LinearRole::q, LinearRole::k,  LinearRole::v,
                                                 LinearRole::o, LinearRole::up, LinearRole::down};
// Rows a new cache has room for; it doubles when it is full.
constexpr std::int64_t kFirstCacheRows = 64;

// Appends the rows of x behind the `used` rows of `all` (capacity, C), in a larger tensor where they do not fit.
void append_rows(Context& ctx, Tensor& all, std::int64_t used, const Tensor& x) {
  const std::int64_t needed = used + x.rows();
  if (!all || needed > all.rows()) {
    Tensor larger(ctx, {std::max({2 * used, needed, kFirstCacheRows}), x.cols()}, x.dtype());
    if (used > 0) ctx.kernels->convert(ctx, larger.slice(0, 0, used), all.slice(0, 0, used));
    all = larger;
  }
  ctx.kernels->convert(ctx, all.slice(0, used, needed), x);
}

}  // namespace

std::span<const LinearRole> linear_roles(Family family) {
  if (family == Family::opt) return kOptRoles;
  return kLlamaRoles;
}

std::span<const LinearRole> linear_roles(Family family, Site site) {
  const std::span<const LinearRole> roles = linear_roles(family);  // layers of one site stand beside each other
  const auto is_here = [&](LinearRole role) { return site_of(role) == site; };
  const auto begin = std::find_if(roles.begin(), roles.end(), is_here);
  return {begin, std::find_if_not(begin, roles.end(), is_here)};
}

Site site_of(LinearRole role) {
  switch (role) {
    case LinearRole::q:
    case LinearRole::k:
    case LinearRole::v: return Site::attention_in;
    case LinearRole::o: return Site::attention_out;
    case LinearRole::gate:
    case LinearRole::up: return Site::mlp_in;
    case LinearRole::down: return Site::mlp_out;
  }
  fail(ErrorKind::failure, "site_of: no such role: ", int(role));
}

Shape weight_shape(const ModelConfig& config, LinearRole role) {
  switch (role) {
    case LinearRole::q: return {config.heads * config.head_dim, config.hidden};
    case LinearRole::k:
    case LinearRole::v: return {config.kv_heads * config.head_dim, config.hidden};
    case LinearRole::o: return {config.hidden, config.heads * config.head_dim};
    case LinearRole::gate:
    case LinearRole::up: return {config.ffn, config.hidden};
    case LinearRole::down: return {config.hidden, config.ffn};
  }
  fail(ErrorKind::failure, "weight_shape: no such role: ", int(role));
}

bool has_bias(const ModelConfig& config, LinearRole role) {
  switch (site_of(role)) {
    case Site::attention_in: return config.qkv_bias;
    case Site::attention_out: return config.o_bias;
    default: return config.mlp_bias;
  }
}

std::string block_name(const ModelConfig& config, std::int64_t layer) {
  return (config.family == Family::opt ? "model.decoder.layers." : "model.layers.") + std::to_string(layer) + ".";
}

std::string short_name(const ModelConfig& config, LinearRole role) {
  const bool is_opt = config.family == Family::opt;
  switch (role) {
    case LinearRole::q: return "self_attn.q_proj";
    case LinearRole::k: return "self_attn.k_proj";
    case LinearRole::v: return "self_attn.v_proj";
    case LinearRole::o: return is_opt ? "self_attn.out_proj" : "self_attn.o_proj";
    case LinearRole::gate: return "mlp.gate_proj";
    case LinearRole::up: return is_opt ? "fc1" : "mlp.up_proj";
    case LinearRole::down: return is_opt ? "fc2" : "mlp.down_proj";
  }
  fail(ErrorKind::failure, "short_name: no such role: ", int(role));
}

std::string linear_name(const ModelConfig& config, std::int64_t layer, LinearRole role) {
  return block_name(config, layer) + short_name(config, role);
}

std::string norm_name(const ModelConfig& config, std::int64_t layer, NormRole role) {
  const bool attention = role == NormRole::attention;
  if (config.family == Family::opt)
    return block_name(config, layer) + (attention ? "self_attn_layer_norm" : "final_layer_norm");
  return block_name(config, layer) + (attention ? "input_layernorm" : "post_attention_layernorm");
}

std::vector<Var> DenseBlock::linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) {
  const auto& [spec, factor] = activations[std::size_t(site)];
  const Var x_hat = spec.bits < 16 ? in.quantised(ctx, {factor, spec.bits, spec.symmetry}) : in.value(ctx);
  std::vector<Var> y;
  for (const LinearRole role : linear_roles(config_.family, site)) {
    const Linear& linear = weights_[role];
    y.push_back(ops::linear(ctx, x_hat, linear.weight, linear.bias, addend));
  }
  return y;
}

Var DenseBlock::cached(Context& ctx, const Var& kv) {
  return quantise_kv_cache(ctx, config_, kv, kv_cache);
}

Var quantise_kv_cache(Context& ctx, const ModelConfig& config, const Var& x, const ActivationSpec& spec) {
  if (spec.bits >= 16) return x;
  const Var heads = ops::reshape(ctx, x, {x.value.rows() * config.kv_heads, config.head_dim});
  const DType dtype = statistics_dtype(x.value.dtype());
  const Var x_hat = ops::fake_quant(ctx, heads, {full(ctx, {1}, dtype, 1), spec.bits, spec.symmetry});
  return ops::reshape(ctx, x_hat, x.shape());
}

Var attend(Context& ctx, const ModelConfig& config, BlockLayers& layers, const SiteInput& in, const Var& x,
           const Sequence& sequence) {
  const std::vector<Var> qkv = layers.linears(ctx, Site::attention_in, in, {});
  Var q = qkv[0], k = qkv[1];
  if (config.family == Family::llama) {
    q = ops::rope(ctx, q, sequence.cos, sequence.sin, sequence.batch, config.heads);
    k = ops::rope(ctx, k, sequence.cos, sequence.sin, sequence.batch, config.kv_heads);
  }
  k = layers.cached(ctx, k);
  Var v = layers.cached(ctx, qkv[2]);
  if (KvCache* cache = sequence.cache) {
    require(sequence.batch == 1 && !k.needs_grad() && !v.needs_grad(),
            "attend: a cache takes one sequence at a time and no gradients");
    append_rows(ctx, cache->k, cache->tokens, k.value);
    append_rows(ctx, cache->v, cache->tokens, v.value);
    cache->tokens += sequence.tokens;
    k = cache->k.slice(0, 0, cache->tokens);
    v = cache->v.slice(0, 0, cache->tokens);
  }
  const Var o = ops::attention(ctx, q, k, v, {sequence.batch, config.heads, config.kv_heads});
  return add_to_stream(ctx, layers, Site::attention_out, o, x);
}

Var add_to_stream(Context& ctx, BlockLayers& layers, Site site, const SiteInput& in, const Var& x) {
  const DType stream = x.value.dtype();
  if (stream == layers.norm(NormRole::attention).weight.value.dtype()) return layers.linears(ctx, site, in, x)[0];
  return ops::add(ctx, x, ops::cast(ctx, layers.linears(ctx, site, in, {})[0], stream));
}

Var block_forward(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x,
                  const Sequence& sequence) {
  return config.family == Family::opt ? opt_block(ctx, config, layers, x, sequence)
                                      : llama_block(ctx, config, layers, x, sequence);
}

Sequence make_sequence(Context& ctx, const ModelConfig& config, std::int64_t batch, std::int64_t begin,
                       std::int64_t tokens, DType dtype) {
  require(batch > 0 && begin >= 0 && tokens > 0, "make_sequence: expected a batch and tokens, got ", batch, " x ",
          tokens, " from position ", begin);
  require_input(tokens <= config.max_positions - begin, config.architecture, ": ", begin + tokens,
                " positions were asked for, max_position_embeddings of config.json is ", config.max_positions,
                "; use a smaller seqlen");
  require_input(!config.sliding_window || begin + tokens <= *config.sliding_window, config.architecture, ": ",
                begin + tokens, " positions were asked for, beyond sliding_window ", config.sliding_window.value_or(0),
                " of config.json, which is not supported; use a smaller seqlen");
  Sequence sequence{batch, tokens, {}, {}, nullptr};
  if (config.family == Family::llama) {
    RopeTables tables = rope_tables(ctx, config, begin, tokens, dtype);
    sequence.cos = std::move(tables.cos);
    sequence.sin = std::move(tables.sin);
  }
  return sequence;
}

std::int64_t parameter_count(const ModelConfig& config) {
  const bool opt = config.family == Family::opt;
  const std::int64_t embed = opt ? config.embed_dim : config.hidden, norm = config.hidden * (opt ? 2 : 1);
  std::int64_t block = 2 * norm;
  for (const LinearRole role : linear_roles(config.family))
    block += weight_shape(config, role).count() + (has_bias(config, role) ? weight_shape(config, role)[0] : 0);
  std::int64_t outer = config.vocab * embed * (config.tied_head ? 1 : 2);
  if (opt) outer += (config.max_positions + kOptPositionOffset) * config.hidden;
  if (embed != config.hidden) outer += 2 * embed * config.hidden;
  if (!opt || config.final_norm) outer += norm;
  return config.layers * block + outer;
}

}  // namespace cbq
