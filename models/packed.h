// Quantised linear layers as checkpoints store them, those of compressed-tensors
// (https://github.com/vllm-project/compressed-tensors) and of GPTQ (https://github.com/ModelCloud/GPTQModel): the
// quantization_config of config.json, and the integers of a layer.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/kernel_args.h"
#include "core/tensor.h"
#include "models/tokenizer/regex.h"

namespace cbq {

// pack_quantized: codes as streams of bits in i32 words, along the inputs; int_quantized: one signed i8 each; gptq: as
// streams of bits along the columns, zero points less one; gptq_v2: the same, zero points as they are.
enum class PackedFormat { pack_quantized, int_quantized, gptq, gptq_v2 };
constexpr bool is_gptq(PackedFormat format) {
  return format == PackedFormat::gptq || format == PackedFormat::gptq_v2;
}

// Quantisation of one linear layer as the checkpoint's config states it.
struct StoredScheme {
  int wbits = 16;
  std::int64_t group_size = -1;  // -1: one group per output row
  Symmetry symmetry = Symmetry::symmetric;
  PackedFormat format = PackedFormat::pack_quantized;
  int abits = 16;
  Symmetry activation_symmetry = Symmetry::symmetric;
  double activation_factor = 1;  // learned factor on the dynamic range
};

// quantization_config of config.json. Supported of compressed-tensors: integer weights of 1 to 8 bits by group or
// channel, dynamic activations of 2 to 8 bits by token, formats pack-quantized and int-quantized. Of GPTQ: 2, 3, 4 and
// 8 bits, checkpoint_format gptq and gptq_v2, with `dynamic` and any order of groups. This program's own member "cbq"
// is
//   {"activation_factor": {"<linear name>": number}, "kv_bits": integer, "kv_symmetric": true or false,
//    "activations": [{"num_bits": integer, "symmetric": true or false, "targets": ["<linear name>"]}]}
// where every member may be absent; "activations" is of layers with dense weights. A dense checkpoint has it in
// config.json itself.
class QuantizationConfig {
 public:
  // Error{bad_input}, starting with `where`: another method, format, strategy or type; a member of the wrong type or
  // out of range; a target that is no regular expression.
  QuantizationConfig(const nlohmann::json& object, const std::string& where);
  // Of a dense checkpoint, from its "cbq" alone.
  static QuantizationConfig of_dense(const nlohmann::json& own, const std::string& where);
  // What this program adds to a method that has no place for it.
  void read_own(const nlohmann::json& object, const std::string& where);

  // The scheme of linear layer NAME: 16-bit if it is ignored or no target matches. A target that is the name itself
  // goes before one that is a regular expression, and that before "Linear".
  StoredScheme scheme(const std::string& name) const;
  int kv_bits() const { return kv_bits_; }
  Symmetry kv_symmetry() const { return kv_symmetry_; }

 private:
  QuantizationConfig() = default;
  // "Linear", a name, or "re:" and an expression that must match at the start of the name.
  struct Target {
    std::string text;
    std::optional<tokenization::Regex> regex;
  };
  struct Group {
    std::vector<Target> targets;
    StoredScheme scheme;
  };
  static std::vector<Target> read_targets(const nlohmann::json& list, const std::string& where);
  void read_gptq(const nlohmann::json& object, const std::string& where);
  static StoredScheme gptq_scheme(StoredScheme base, const nlohmann::json& object, const std::string& where);
  static Group read_group(const nlohmann::json& object, const std::string& format, const std::string& where);
  void read_own_activations(const nlohmann::json& list, const std::string& where);
  // Rank of the best target that matches; 0: none.
  static int match(const std::vector<Target>& targets, const std::string& name);

  std::vector<Target> ignored_;
  std::vector<Group> groups_;
  std::map<std::string, double> activation_factors_;
  std::map<std::string, StoredScheme> own_activations_;  // of dense weights
  int kv_bits_ = 16;
  Symmetry kv_symmetry_ = Symmetry::symmetric;
};

// A layer's integers on the host: codes (out, in) and zero points (out, in/G), unsigned, each in [0, 2^bits - 1].
struct PackedCodes {
  std::vector<std::uint8_t> codes, zeros;
  std::vector<std::int32_t> group_of;  // of each column, where the columns are not in the order of their groups
};

class Checkpoint;

// Reads NAME.weight_packed and NAME.weight_zero_point; NAME.weight and NAME.weight_zero_point of int_quantized; or
// NAME.qweight, NAME.qzeros and NAME.g_idx of GPTQ; and checks them against `scheme` and the shape of the weight (out,
// in). Errors (bad_input) name the tensor.
PackedCodes read_codes(const Checkpoint& checkpoint, const std::string& name, const StoredScheme& scheme,
                       const Shape& expected);

}  // namespace cbq
