// Quantised linear layers as compressed-tensors stores them (https://github.com/vllm-project/compressed-tensors): the
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

// pack_quantized: codes as streams of bits in i32 words; int_quantized: one signed i8 each.
enum class PackedFormat { pack_quantized, int_quantized };

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

// quantization_config of config.json. Supported: integer weights of 1 to 8 bits by group or channel, dynamic
// activations of 2 to 8 bits by token, formats pack-quantized and int-quantized. This program's own member "cbq" is
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
  static Group read_group(const nlohmann::json& object, const std::string& format, const std::string& where);
  void read_own(const nlohmann::json& object, const std::string& where);
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
};

class Checkpoint;

// Reads NAME.weight_packed and NAME.weight_zero_point, or NAME.weight and NAME.weight_zero_point of int_quantized, and
// checks them against `scheme` and the shape of the weight (out, in). Errors (bad_input) name the tensor.
PackedCodes read_codes(const Checkpoint& checkpoint, const std::string& name, const StoredScheme& scheme,
                       const Shape& expected);

}  // namespace cbq
