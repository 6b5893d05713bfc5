// The element types of GGUF tensors, and the layout of their blocks: 32 neighbouring values of a row and what they
// share.
//   Q4_0  f16 d, 16 bytes          w = d (n - 8)
//   Q4_1  f16 d, f16 m, 16 bytes   w = d n + m
//   Q8_0  f16 d, 32 signed bytes   w = d c
// Byte j of the first two holds n of value j in its low half and of value j + 16 in its high one.
// Source: ggml/src/ggml-common.h and ggml-quants.c of https://github.com/ggml-org/llama.cpp
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ostream>
#include <span>

#include "core/dtype.h"
#include "core/shape.h"

namespace cbq {

// The values are those of the file.
enum class GgmlType : std::uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 8, bf16 = 30 };

inline constexpr std::int64_t kGgmlBlock = 32;  // values of a quantised block

const char* name(GgmlType type);
inline std::ostream& operator<<(std::ostream& out, GgmlType type) {
  return out << name(type);
}
// The type with this number in a file; nothing for one that this program does not read.
std::optional<GgmlType> ggml_type(std::uint32_t number);

inline bool is_quantised(GgmlType type) {
  return type == GgmlType::q4_0 || type == GgmlType::q4_1 || type == GgmlType::q8_0;
}
// Values and bytes of a block; 1 and the size of an element for the float types.
std::int64_t block_values(GgmlType type);
std::int64_t block_bytes(GgmlType type);
// Of a tensor, or nothing: the last dimension is no whole number of blocks, or the size exceeds 2^63 - 1.
std::optional<std::int64_t> byte_count(GgmlType type, std::span<const std::int64_t> sizes);

// The float type of this name. Errors failure: f64 and the integer types have none.
GgmlType ggml_type(DType dtype);
// The same the other way; quantised types have none.
DType dtype_of(GgmlType type);

// One block of codes: n in [0, 15] for Q4_0 and Q4_1, c in [-128, 127] for Q8_0. d and m are f16 bits; m is of Q4_1.
struct GgmlBlock {
  std::uint16_t d = 0, m = 0;
  std::array<std::int8_t, kGgmlBlock> codes{};
};
// bytes: block_bytes(type) of them.
void pack_block(GgmlType type, const GgmlBlock& block, std::span<std::byte> bytes);
GgmlBlock unpack_block(GgmlType type, std::span<const std::byte> bytes);

// The values of whole blocks, as llama.cpp computes them in f32.
void dequantise_blocks(GgmlType type, std::span<const std::byte> bytes, std::span<float> values);

}  // namespace cbq
