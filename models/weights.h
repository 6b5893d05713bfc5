// The tensors of a checkpoint, dense or packed, read through memory maps.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "core/tensor.h"
#include "models/gguf.h"
#include "models/packed.h"
#include "models/staged_tensors.h"

namespace cbq {

// x in its own dtype, with the values that a file of `stored` would give back.
Tensor round_to(Context& ctx, const Tensor& x, DType stored);

// A quantised weight as it is stored: w = s (q - z), rounded to `rounded_to`, as every reader of the format computes
// it.
struct PackedWeight {
  Tensor codes;                        // (out, in) u8
  Tensor scale, zero;                  // (out, in/G) f32
  std::vector<std::int32_t> group_of;  // of each column, where the columns are not in the order of their groups
  DType rounded_to;
};

// A GGUF file (see models/gguf.h), or FOLDER with model.safetensors, or model-*.safetensors with or without
// model.safetensors.index.json. Names that lack the leading "model." of OPT ("decoder.layers.0...") are known with it.
class Checkpoint {
 public:
  // Errors (bad_input): no shards; a shard that the index or the other shards' numbering names is missing; a tensor in
  // two shards, or in another shard than the index says; everything SafetensorsFile rejects; a quantization_config that
  // is not supported.
  explicit Checkpoint(std::filesystem::path folder);

  const std::filesystem::path& folder() const { return folder_; }
  bool contains(const std::string& name) const {
    return gguf_ ? gguf_->tensors().contains(name) : where_.contains(name);
  }
  std::vector<std::string> names() const;
  // Error{bad_input} when there is no such tensor.
  const TensorInfo& info(const std::string& name) const;
  std::int64_t total_bytes() const;

  // The tensor as it is stored, and giving its pages back (see SafetensorsFile).
  std::span<const std::byte> bytes(const std::string& name) const;
  void release(const std::string& name) const;
  // Starts to bring in from disk what has a name with one of these prefixes, for load() (models/staged_tensors.h); what
  // was read ahead before is let go. For one thread at a time, as are the load functions.
  void read_ahead(Context& ctx, const std::vector<std::string>& prefixes) const;
  // Bytes of what has a name with this prefix.
  std::int64_t bytes_below(const std::string& prefix) const;

  // The tensor converted to `dtype`. `expected` is its shape. Errors (bad_input): missing; wrong shape; not a float
  // type; NaN or infinity in it (names the tensor and how many).
  Tensor load(Context& ctx, const std::string& name, const Shape& expected, DType dtype) const;
  // The integers of linear layer NAME, which is quantised; not of a GGUF file.
  PackedWeight load_packed(Context& ctx, const std::string& name, const Shape& expected) const;
  // NAME.weight of a linear layer, de-quantised if it is stored packed.
  Tensor load_weight(Context& ctx, const std::string& name, const Shape& expected, DType dtype) const;
  // The scheme of linear layer NAME; 16-bit if it is dense.
  StoredScheme scheme(const std::string& name) const;
  bool is_quantised() const;
  // Of the key/value cache, which a quantised checkpoint may ask for; 16: not quantised.
  int kv_bits() const { return quantization_ ? quantization_->kv_bits() : 16; }
  Symmetry kv_symmetry() const { return quantization_ ? quantization_->kv_symmetry() : Symmetry::symmetric; }

  // Error{bad_input} unless the tensor is there with this shape and element type.
  void expect(const std::string& name, const Shape& shape, DType dtype) const;
  // How errors call a tensor: folder and name.
  std::string tensor_text(const std::string& name) const;

 private:
  struct Place {
    std::size_t shard;
    std::string stored_name;
  };

  const Place& place(const std::string& name) const;
  void read_quantization();
  // `grid` (out, in/G) from the file's (in/G, out), with the values that `dtype` holds.
  Tensor load_gptq_scales(Context& ctx, const std::string& name, const Shape& grid, DType dtype) const;
  void add_shard(const std::filesystem::path& file);
  // Error{bad_input} unless the tensor is in the shard that the index says.
  void check_place(const std::string& stored_name, const std::string& shard) const;
  // As load; the dtype is the stored one.
  Tensor load_stored(Context& ctx, const std::string& name, const Shape& expected) const;

  std::filesystem::path folder_;
  std::unique_ptr<const GgufModel> gguf_;  // then there are no shards
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  std::map<std::string, Place> where_;  // by the name that this program uses
  std::optional<QuantizationConfig> quantization_;
  std::unique_ptr<StagedTensors> staged_ = std::make_unique<StagedTensors>();  // last: its thread reads the shards
};

}  // namespace cbq
