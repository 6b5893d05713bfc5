#include "models/packed.h"

#include <cstring>

#include "core/bitpack.h"
#include "models/weights.h"

namespace cbq {
namespace {

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

template <class T>
std::vector<T> transposed(const std::vector<T>& x, std::int64_t rows, std::int64_t cols) {
  std::vector<T> y(x.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c) y[std::size_t(c * rows + r)] = x[std::size_t(r * cols + c)];
  return y;
}

// The group of each column, where the columns are not in the order of their groups.
std::vector<std::int32_t> read_group_order(const Checkpoint& checkpoint, const std::string& tensor, std::int64_t in,
                                           std::int64_t groups) {
  if (!checkpoint.contains(tensor)) return {};
  checkpoint.expect(tensor, {in}, DType::i32);
  std::vector<std::int32_t> group_of(static_cast<std::size_t>(in));
  std::memcpy(group_of.data(), checkpoint.bytes(tensor).data(), group_of.size() * sizeof(std::int32_t));
  bool fits = true, in_order = true;
  for (std::int64_t i = 0; i < in; ++i) {
    const std::int32_t g = group_of[std::size_t(i)];
    fits = fits && g >= 0 && g < groups;
    in_order = in_order && g == i / (in / groups);
  }
  require_input(fits, checkpoint.tensor_text(tensor), ": expected groups from 0 to ", groups - 1, ", found others");
  return in_order ? std::vector<std::int32_t>() : group_of;
}

// qweight (ceil(in*b/32), out), qzeros (in/G, ceil(out*b/32)) and g_idx (in); see quant/export_gptq.cpp.
PackedCodes read_gptq_codes(const Checkpoint& checkpoint, const std::string& name, const StoredScheme& scheme,
                            const Shape& expected, std::int64_t groups) {
  const std::int64_t out = expected[0], in = expected[1];
  const int bits = scheme.wbits;
  checkpoint.expect(name + ".qweight", {word_count(in, bits), out}, DType::i32);
  checkpoint.expect(name + ".qzeros", {groups, word_count(out, bits)}, DType::i32);
  std::vector<std::uint8_t> codes(std::size_t(out * in)), zeros(std::size_t(groups * out));
  unpack_columns(words_of(checkpoint, name + ".qweight"), in, out, bits, codes);
  unpack_rows(words_of(checkpoint, name + ".qzeros"), groups, out, bits, zeros);
  if (scheme.format == PackedFormat::gptq)
    for (std::uint8_t& zero : zeros) zero = std::uint8_t((zero + 1) & ((1 << bits) - 1));
  return {transposed(codes, in, out), transposed(zeros, groups, out),
          read_group_order(checkpoint, name + ".g_idx", in, groups)};
}

}  // namespace

PackedCodes read_codes(const Checkpoint& checkpoint, const std::string& name, const StoredScheme& scheme,
                       const Shape& expected) {
  const std::int64_t out = expected[0], in = expected[1];
  require_input(!checkpoint.contains(name + ".weight_g_idx"), checkpoint.tensor_text(name + ".weight_g_idx"),
                ": groups in another order than the columns (actorder) are not supported");
  const std::int64_t group = scheme.group_size < 0 ? in : scheme.group_size;
  require_input(in % group == 0, checkpoint.tensor_text(name), ": group_size ", group, " does not divide its ", in,
                " input columns");
  const std::int64_t groups = in / group;
  if (is_gptq(scheme.format)) return read_gptq_codes(checkpoint, name, scheme, expected, groups);
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
