// A GGUF file as a checkpoint of family llama: its tensors under the names and in the row order of Hugging Face
// checkpoints, its metadata as a ModelConfig.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/safetensors.h"
#include "core/tensor.h"
#include "models/config.h"
#include "models/packed.h"

namespace cbq {

// Own metadata key: the dtype to which each de-quantised weight of the run was rounded, "float16" for one.
inline constexpr const char* kGgufWeightDtype = "cbq.weight_dtype";

// The GGUF file that MODEL is, or the only one in the folder MODEL, which has no config.json; else nothing.
// Error{bad_input}: several such files in it.
std::optional<std::filesystem::path> gguf_file(const std::filesystem::path& model);

// Row r of q and k in a GGUF file of architecture llama is row hf_row(r, D) of a Hugging Face checkpoint: rotary pairs
// are neighbours (2i, 2i+1) instead of halves (i, i + D/2) of each head. D: head size.
inline std::int64_t hf_row(std::int64_t r, std::int64_t head_dim) {
  const std::int64_t in_head = r % head_dim;
  return r - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
}

// Name in a GGUF file of "model.layers.3.self_attn.q_proj.weight" and the like; empty for one that GGUF lacks.
std::string gguf_name(const std::string& name);

class GgufModel {
 public:
  // Errors (bad_input): all that GgufFile refuses; another architecture than llama and qwen2; metadata that is missing,
  // of the wrong type or out of range; experts, a rope scaling or a split file, which are not supported.
  explicit GgufModel(const std::filesystem::path& path);

  const GgufFile& file() const { return file_; }
  const ModelConfig& config() const { return config_; }
  // Tensors by the name in a Hugging Face checkpoint. Quantised ones appear as u8 with the shape of their values.
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }

  // The tensor, in f32 if it is stored quantised, rounded to kGgufWeightDtype where the file has that; rows in the
  // order of Hugging Face. Its pages are given back.
  Tensor load(Context& ctx, const std::string& name) const;
  // The scheme of linear layer NAME; 16-bit if its weight is stored in a float type.
  StoredScheme scheme(const std::string& name) const;

 private:
  GgufFile file_;
  ModelConfig config_;
  std::map<std::string, TensorInfo> tensors_;
  std::optional<DType> weight_dtype_;
};

}  // namespace cbq
