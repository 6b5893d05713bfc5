#include "models/packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/bitpack.h"
#include "core/json.h"
#include "models/weights.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr std::int64_t kMaxGroupSize = 1 << 24;

// The member, or null when it is absent or null.
const json* find(const json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

[[noreturn]] void fail_member(const std::string& where, const char* key, const char* expected, const json* found) {
  fail(ErrorKind::bad_input, where, ": ", key, ": expected ", expected, ", found ",
       found ? quoted_text(found->dump()) : "nothing");
}

const json& object_of(const json* value, const std::string& where) {
  require_input(value && value->is_object(), where, ": expected an object, found ",
                value ? value->type_name() : "nothing");
  return *value;
}

std::string text_of(const json& object, const char* key, const std::string& where) {
  const json* value = find(object, key);
  if (!value || !value->is_string()) fail_member(where, key, "a string", value);
  return value->get<std::string>();
}

int bits_of(const json& object, const char* key, int low, int high, const std::string& where) {
  const json* value = find(object, key);
  if (!value || !value->is_number_integer() || *value < low || *value > high)
    fail_member(where, key, concat("a whole number from ", low, " to ", high).c_str(), value);
  return value->get<int>();
}

Symmetry symmetry_of(const json& object, const char* key, const std::string& where) {
  const json* value = find(object, key);
  if (value && !value->is_boolean()) fail_member(where, key, "true or false", value);
  return !value || value->get<bool>() ? Symmetry::symmetric : Symmetry::asymmetric;
}

void require_int_type(const json& args, const std::string& where) {
  const json* type = find(args, "type");
  if (type && *type != "int") fail_member(where, "type", "\"int\", the only type supported", type);
}

void read_weights(StoredScheme& scheme, const json& args, const std::string& where) {
  require_int_type(args, where);
  scheme.wbits = bits_of(args, "num_bits", 1, 8, where);
  scheme.symmetry = symmetry_of(args, "symmetric", where);
  const std::string strategy = text_of(args, "strategy", where);
  require_input(strategy == "group" || strategy == "channel", where,
                ": strategy: group and channel are supported, found ", quoted_text(strategy));
  if (strategy == "group") {
    const json* size = find(args, "group_size");
    if (!size || !size->is_number_integer() || *size < 1 || *size > kMaxGroupSize)
      fail_member(where, "group_size", "a positive whole number", size);
    scheme.group_size = size->get<std::int64_t>();
  }
  const json* order = find(args, "actorder");
  if (order && *order != "weight" && *order != "static" && *order != false)
    fail_member(where, "actorder", "null, \"weight\" or \"static\", the only orders supported", order);
}

void read_activations(StoredScheme& scheme, const json& args, const std::string& where) {
  require_int_type(args, where);
  scheme.abits = bits_of(args, "num_bits", 2, 8, where);
  scheme.activation_symmetry = symmetry_of(args, "symmetric", where);
  if (const json* d = find(args, "dynamic"); !d || *d != true)
    fail_member(where, "dynamic", "true: only dynamic activations are supported", d);
  if (const json* s = find(args, "strategy"); !s || *s != "token")
    fail_member(where, "strategy", "\"token\", the only strategy supported", s);
}

// Codes and zero points are stored signed; 2^(bits-1) makes them unsigned.
std::vector<std::uint8_t> unsigned_codes(const Checkpoint& checkpoint, const std::string& tensor, int bits) {
  const auto bytes = checkpoint.bytes(tensor);
  const int offset = 1 << (bits - 1);
  std::vector<std::uint8_t> codes(bytes.size());
  bool fits = true;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const int code = int(static_cast<signed char>(bytes[i])) + offset;
    fits = fits && code >= 0 && code < 2 * offset;
    codes[i] = std::uint8_t(code);
  }
  require_input(fits, checkpoint.tensor_text(tensor), ": expected codes from ", -offset, " to ", offset - 1,
                ", found others");
  return codes;
}

std::vector<std::uint32_t> words_of(const Checkpoint& checkpoint, const std::string& tensor) {
  const auto bytes = checkpoint.bytes(tensor);
  std::vector<std::uint32_t> words(bytes.size() / sizeof(std::uint32_t));
  if (!bytes.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

void check_stored_shape(const Checkpoint& checkpoint, const std::string& tensor, const Shape& expected) {
  if (!checkpoint.contains(tensor)) return;
  checkpoint.expect(tensor, {2}, DType::i64);
  std::int64_t stored[2];
  std::memcpy(stored, checkpoint.bytes(tensor).data(), sizeof stored);
  require_input(stored[0] == expected[0] && stored[1] == expected[1], checkpoint.tensor_text(tensor),
                ": expected the shape ", expected, ", found (", stored[0], ", ", stored[1], ")");
}

}  // namespace

QuantizationConfig::QuantizationConfig(const json& object, const std::string& where) {
  object_of(&object, where);
  const std::string method = text_of(object, "quant_method", where);
  require_input(method == "compressed-tensors", where, ": quant_method: only compressed-tensors is supported, found ",
                quoted_text(method), "; start from the full-precision checkpoint");
  for (const char* key : {"kv_cache_scheme", "sparsity_config", "transform_config"})
    if (const json* value = find(object, key); value && !(value->is_object() && value->empty()))
      fail_member(where, key, "nothing: it is not supported", value);
  const json* format = find(object, "format");
  if (format && !format->is_string()) fail_member(where, "format", "a string", format);
  const json& groups = object_of(find(object, "config_groups"), where + ": config_groups");
  for (const auto& [key, group] : groups.items())
    groups_.push_back(read_group(group, format ? format->get<std::string>() : "", where + ": " + quoted_text(key)));
  if (const json* list = find(object, "ignore")) ignored_ = read_targets(*list, where + ": ignore");
  if (const json* own = find(object, "cbq")) read_own(*own, where + ": cbq");
}

QuantizationConfig QuantizationConfig::of_dense(const json& own, const std::string& where) {
  QuantizationConfig config;
  config.read_own(own, where);
  return config;
}

std::vector<QuantizationConfig::Target> QuantizationConfig::read_targets(const json& list, const std::string& where) {
  require_input(list.is_array(), where, ": expected a list, found ", list.type_name());
  std::vector<Target> targets;
  for (const json& entry : list) {
    require_input(entry.is_string(), where, ": expected strings, found ", quoted_text(entry.dump()));
    Target target{entry.get<std::string>(), std::nullopt};
    constexpr std::string_view kRegex = "re:";
    if (target.text.starts_with(kRegex))
      target.regex.emplace("\\A(?:" + target.text.substr(kRegex.size()) + ")", where);
    targets.push_back(std::move(target));
  }
  return targets;
}

QuantizationConfig::Group QuantizationConfig::read_group(const json& object, const std::string& format,
                                                         const std::string& where) {
  object_of(&object, where);
  Group group;
  const json* targets = find(object, "targets");
  if (!targets) fail_member(where, "targets", "a list", targets);
  group.targets = read_targets(*targets, where + ": targets");
  const std::string stored = find(object, "format") ? text_of(object, "format", where) : format;
  const bool packed = stored == "pack-quantized";
  require_input(packed || stored == "int-quantized", where,
                ": format: pack-quantized and int-quantized are supported, found ", quoted_text(stored));
  group.scheme.format = packed ? PackedFormat::pack_quantized : PackedFormat::int_quantized;
  if (const json* args = find(object, "weights"))
    read_weights(group.scheme, object_of(args, where + ": weights"), where + ": weights");
  if (const json* args = find(object, "input_activations"))
    read_activations(group.scheme, object_of(args, where + ": input_activations"), where + ": input_activations");
  if (const json* args = find(object, "output_activations"))
    fail_member(where, "output_activations", "null: it is not supported", args);
  return group;
}

void QuantizationConfig::read_own(const json& object, const std::string& where) {
  object_of(&object, where);
  if (find(object, "kv_bits")) kv_bits_ = bits_of(object, "kv_bits", 2, 16, where);
  kv_symmetry_ = symmetry_of(object, "kv_symmetric", where);
  if (const json* list = find(object, "activations")) read_own_activations(*list, where + ": activations");
  const json* factors = find(object, "activation_factor");
  if (!factors) return;
  for (const auto& [name, value] : object_of(factors, where + ": activation_factor").items()) {
    const bool fits = value.is_number() && std::isfinite(value.get<double>()) && value.get<double>() > 0;
    require_input(fits, where, ": activation_factor: ", quoted_text(name), ": expected a positive number, found ",
                  quoted_text(value.dump()));
    activation_factors_[name] = value.get<double>();
  }
}

void QuantizationConfig::read_own_activations(const json& list, const std::string& where) {
  require_input(list.is_array(), where, ": expected a list, found ", list.type_name());
  for (const json& entry : list) {
    StoredScheme scheme;
    scheme.abits = bits_of(object_of(&entry, where), "num_bits", 2, 8, where);
    scheme.activation_symmetry = symmetry_of(entry, "symmetric", where);
    const json* targets = find(entry, "targets");
    if (!targets) fail_member(where, "targets", "a list", targets);
    for (const Target& target : read_targets(*targets, where + ": targets")) own_activations_[target.text] = scheme;
  }
}

int QuantizationConfig::match(const std::vector<Target>& targets, const std::string& name) {
  int best = 0;
  for (const Target& target : targets) {
    if (target.text == name) return 3;
    if (target.regex && !target.regex->matches(name).empty()) best = std::max(best, 2);
    if (target.text == "Linear") best = std::max(best, 1);
  }
  return best;
}

StoredScheme QuantizationConfig::scheme(const std::string& name) const {
  StoredScheme scheme;
  int best = 0;
  if (match(ignored_, name) == 0)
    for (const Group& group : groups_)
      if (const int rank = match(group.targets, name); rank > best) {
        best = rank;
        scheme = group.scheme;
      }
  if (const auto own = own_activations_.find(name); best == 0 && own != own_activations_.end()) scheme = own->second;
  if (const auto found = activation_factors_.find(name); found != activation_factors_.end())
    scheme.activation_factor = found->second;
  return scheme;
}

PackedCodes read_codes(const Checkpoint& checkpoint, const std::string& name, const StoredScheme& scheme,
                       const Shape& expected) {
  const std::int64_t out = expected[0], in = expected[1];
  require_input(!checkpoint.contains(name + ".weight_g_idx"), checkpoint.tensor_text(name + ".weight_g_idx"),
                ": groups in another order than the columns (actorder) are not supported");
  const std::int64_t group = scheme.group_size < 0 ? in : scheme.group_size;
  require_input(in % group == 0, checkpoint.tensor_text(name), ": group_size ", group, " does not divide its ", in,
                " input columns");
  const std::int64_t groups = in / group;
  const int bits = scheme.wbits;
  const bool asymmetric = scheme.symmetry == Symmetry::asymmetric;
  const std::string zeros = name + ".weight_zero_point";
  PackedCodes packed;
  packed.zeros.assign(std::size_t(out * groups), std::uint8_t(1 << (bits - 1)));
  if (scheme.format == PackedFormat::int_quantized) {
    checkpoint.expect(name + ".weight", expected, DType::i8);
    packed.codes = unsigned_codes(checkpoint, name + ".weight", bits);
    if (asymmetric) {
      checkpoint.expect(zeros, {out, groups}, DType::i8);
      packed.zeros = unsigned_codes(checkpoint, zeros, bits);
    }
    return packed;
  }
  check_stored_shape(checkpoint, name + ".weight_shape", expected);
  checkpoint.expect(name + ".weight_packed", {out, word_count(in, bits)}, DType::i32);
  packed.codes.resize(std::size_t(out * in));
  unpack_rows(words_of(checkpoint, name + ".weight_packed"), out, in, bits, packed.codes);
  if (asymmetric) {
    checkpoint.expect(zeros, {word_count(out, bits), groups}, DType::i32);
    unpack_columns(words_of(checkpoint, zeros), out, groups, bits, packed.zeros);
  }
  return packed;
}

}  // namespace cbq
