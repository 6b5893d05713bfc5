// One transformer block: the same code runs as teacher, student and in training; what differs is who supplies its
// layers.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/config.h"
#include "models/site_input.h"

namespace cbq {

// The linear layers of a block. OPT's fc1 and fc2 are `up` and `down`; it has no `gate`.
enum class LinearRole { q, k, v, o, gate, up, down };
constexpr int kLinearRoles = 7;
// Where linear layers read their input. All layers of one site share one input, and so one activation quantiser.
enum class Site { attention_in, attention_out, mlp_in, mlp_out };
constexpr int kSites = 4;
enum class NormRole { attention, mlp };

// The roles of a family in the order of execution, all of them or those that read at one site; and the site of a role.
std::span<const LinearRole> linear_roles(Family family);
std::span<const LinearRole> linear_roles(Family family, Site site);
Site site_of(LinearRole role);
// (out, in) of a role's weight.
Shape weight_shape(const ModelConfig& config, LinearRole role);
bool has_bias(const ModelConfig& config, LinearRole role);
// Weights of the whole model, a tied head counted once.
std::int64_t parameter_count(const ModelConfig& config);

// Names in the checkpoint: what those of a block begin with, "model.layers.3."; "model.layers.3.mlp.down_proj" (without
// ".weight"); and the path below the block, "mlp.down_proj".
std::string block_name(const ModelConfig& config, std::int64_t layer);
std::string linear_name(const ModelConfig& config, std::int64_t layer, LinearRole role);
std::string norm_name(const ModelConfig& config, std::int64_t layer, NormRole role);
std::string short_name(const ModelConfig& config, LinearRole role);

// Weights are Vars so that training can make leaves of them; those of a checkpoint are constants.
struct Linear {
  Var weight;  // (out, in)
  Var bias;    // (out) or empty
};
struct BlockWeights {
  std::array<Linear, kLinearRoles> linears;
  Norm attention_norm, mlp_norm;

  Linear& operator[](LinearRole role) { return linears[std::size_t(role)]; }
  const Linear& operator[](LinearRole role) const { return linears[std::size_t(role)]; }
};

// Keys and values of the tokens seen so far, for generation: one block's.
struct KvCache {
  Tensor k, v;  // (capacity, Hkv*D), one sequence; the first `tokens` rows are in use
  std::int64_t tokens = 0;
};

// The tokens a block works on: R = batch * tokens rows.
struct Sequence {
  std::int64_t batch, tokens;
  Tensor cos, sin;           // (T, D/2) of the tokens' positions; family llama only
  KvCache* cache = nullptr;  // appended to and read when set
};

// Supplies the layers of a block.
class BlockLayers {
 public:
  virtual ~BlockLayers() = default;
  // Outputs of all linear layers that read at this site, in the order of linear_roles(family, site), each plus `addend`
  // where that is set.
  virtual std::vector<Var> linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) = 0;
  virtual const Norm& norm(NormRole role) const = 0;
  // What the key/value cache keeps of k or v (R, Hkv*D).
  virtual Var cached(Context& ctx, const Var& kv) = 0;
};

// How activations are quantised where linear layers read them. bits = 16 means not at all.
struct ActivationSpec {
  int bits = 16;
  Symmetry symmetry = Symmetry::symmetric;
};

// Layers with given weights, and optionally activation quantisers: full-precision, trained and hardened blocks.
class DenseBlock final : public BlockLayers {
 public:
  struct SiteQuantiser {
    ActivationSpec spec;
    Var factor;  // (1), on the dynamic range; set when spec.bits < 16
  };
  DenseBlock(const ModelConfig& config, BlockWeights weights) : config_(config), weights_(std::move(weights)) {}

  std::vector<Var> linears(Context& ctx, Site site, const SiteInput& in, const Var& addend) override;
  const Norm& norm(NormRole role) const override {
    return role == NormRole::attention ? weights_.attention_norm : weights_.mlp_norm;
  }
  Var cached(Context& ctx, const Var& kv) override;

  BlockWeights& weights() { return weights_; }
  std::array<SiteQuantiser, kSites> activations;
  ActivationSpec kv_cache;

 private:
  const ModelConfig& config_;
  BlockWeights weights_;
};

// Per token and key head, range factor 1: what a quantised KV cache stores. x (R, Hkv*D).
Var quantise_kv_cache(Context& ctx, const ModelConfig& config, const Var& x, const ActivationSpec& spec);

// The residual stream x is in the layers' type where blocks are learned, and may be wider (statistics_dtype) where
// models are measured: in bf16 a sum over all blocks loses most of what bf16 loses at all. Layers read and write their
// own type, that of their norms.
//
// x + y in the type of the stream x, y being the one layer of `site` over `in`: in one pass where the types are equal.
Var add_to_stream(Context& ctx, BlockLayers& layers, Site site, const SiteInput& in, const Var& x);

// x (R, C) -> (R, C). Llama: x += attention(norm(x)); x += mlp(norm(x)). OPT the same with its norms, before the layers
// or, for OPT-350M, after the residual.
Var block_forward(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Var& x, const Sequence& sequence);

// Frequency of pair i of D/2, in radians a token: theta^(-2i/D), and for LLaMA 3.1 slowed down where the wavelength is
// long (the function _compute_llama3_parameters of transformers).
double rope_frequency(const ModelConfig& config, std::int64_t i);
// cos and sin (T, D/2) of positions begin .. begin+T-1, for values of `dtype` (f64 for f64, else f32); angle t *
// theta^(-2i/D), scaled as the config says.
struct RopeTables {
  Tensor cos, sin;
};
RopeTables rope_tables(Context& ctx, const ModelConfig& config, std::int64_t begin, std::int64_t tokens, DType dtype);

// A sequence of `batch` texts of `tokens` tokens each, from position `begin` on. Error{bad_input}: more positions than
// the model has, or than its sliding window spans.
Sequence make_sequence(Context& ctx, const ModelConfig& config, std::int64_t batch, std::int64_t begin,
                       std::int64_t tokens, DType dtype);

}  // namespace cbq
