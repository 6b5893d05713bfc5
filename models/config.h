// What a Hugging Face config.json says about a model, for the architectures this program knows.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/kernel_args.h"

namespace cbq {

// llama: LLaMA 1/2/3, Mistral, Qwen2. RMSNorm, rotary positions, gated feed-forward.
// opt: LayerNorm, learned positions, plain feed-forward.
enum class Family { llama, opt };

// Frequency scaling of LLaMA 3.1 (`rope_type: llama3`).
struct Llama3Scaling {
  double factor, low_freq_factor, high_freq_factor, original_max_positions;
};

struct ModelConfig {
  std::string architecture;  // such as LlamaForCausalLM
  Family family;
  std::int64_t layers, hidden, ffn, heads, kv_heads, head_dim, vocab, max_positions;
  double norm_eps;
  Activation activation;  // silu means the gated product in family llama
  bool tied_head;         // lm_head shares the token embedding
  bool qkv_bias, o_bias, mlp_bias;
  DType dtype;  // of the checkpoint's tensors: what a de-quantised weight is rounded to
  std::optional<std::int32_t> bos;
  std::vector<std::int32_t> eos;  // each of them ends a text

  // family llama
  double rope_theta = 10000;
  std::optional<Llama3Scaling> rope_scaling;
  std::vector<double> rope_factors;  // head_dim/2 that the frequencies are divided by, as GGUF files state a scaling
  // Mistral: tokens a query may look back, itself included; set means that longer sequences are refused.
  std::optional<std::int64_t> sliding_window;

  // family opt
  bool pre_norm = true;        // false for OPT-350M: norms come after the residual
  bool final_norm = true;      // false for OPT-350M
  std::int64_t embed_dim = 0;  // word_embed_proj_dim; project_in and project_out exist where it is not `hidden`. Family
                               // llama: `hidden`
};

// Positions 0 .. T-1 of OPT read rows 2 .. T+1 of embed_positions.
constexpr std::int64_t kOptPositionOffset = 2;

// Reads FOLDER/config.json, or the metadata of a GGUF file (models/gguf.h). Errors (bad_input): file missing or broken;
// architecture not supported (names it and those supported); a key missing, of the wrong type or out of range; sizes
// that contradict each other; an option of the architecture that is not supported (names key and value).
ModelConfig read_model_config(const std::filesystem::path& folder);
// The dtype of FOLDER/config.json alone, or else of the first tensor of the shards.
DType read_model_dtype(const std::filesystem::path& folder);
// The same from the content of such a file, which must name its dtype. `where`: for errors.
ModelConfig model_config(const nlohmann::json& root, const std::string& where);
// What such files call a float dtype: "float16" and the like.
const char* torch_name(DType dtype);

}  // namespace cbq
