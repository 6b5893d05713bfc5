#include "core/ggml_blocks.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace cbq {
namespace {

constexpr std::size_t kHalf = kGgmlBlock / 2;

// Bytes before the codes: d, and m of Q4_1.
std::size_t codes_begin(GgmlType type) {
  return type == GgmlType::q4_1 ? 4 : 2;
}

}  // namespace

const char* name(GgmlType type) {
  switch (type) {
    case GgmlType::f32: return "F32";
    case GgmlType::f16: return "F16";
    case GgmlType::q4_0: return "Q4_0";
    case GgmlType::q4_1: return "Q4_1";
    case GgmlType::q8_0: return "Q8_0";
    case GgmlType::bf16: return "BF16";
  }
  return "?";
}

std::optional<GgmlType> ggml_type(std::uint32_t number) {
  for (const GgmlType type :
       {GgmlType::f32, GgmlType::f16, GgmlType::q4_0, GgmlType::q4_1, GgmlType::q8_0, GgmlType::bf16})
    if (std::uint32_t(type) == number) return type;
  return std::nullopt;
}

std::int64_t block_values(GgmlType type) {
  return is_quantised(type) ? kGgmlBlock : 1;
}

std::int64_t block_bytes(GgmlType type) {
  switch (type) {
    case GgmlType::f32: return 4;
    case GgmlType::f16:
    case GgmlType::bf16: return 2;
    case GgmlType::q4_0: return 2 + kGgmlBlock / 2;
    case GgmlType::q4_1: return 4 + kGgmlBlock / 2;
    case GgmlType::q8_0: return 2 + kGgmlBlock;
  }
  return 0;
}

std::optional<std::int64_t> byte_count(GgmlType type, std::span<const std::int64_t> sizes) {
  std::int64_t bytes = block_bytes(type);
  bool is_empty = false;
  if (sizes.empty() && is_quantised(type)) return std::nullopt;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    std::int64_t size = sizes[i];
    if (i + 1 == sizes.size()) {
      if (size % block_values(type) != 0) return std::nullopt;
      size /= block_values(type);
    }
    is_empty = is_empty || size == 0;
    // A size of 0 does not hide an overflow of the others: Shape multiplies some of them on their own.
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) return std::nullopt;
  }
  return is_empty ? 0 : bytes;
}

GgmlType ggml_type(DType dtype) {
  switch (dtype) {
    case DType::f32: return GgmlType::f32;
    case DType::f16: return GgmlType::f16;
    case DType::bf16: return GgmlType::bf16;
    default: fail(ErrorKind::failure, "gguf: ", dtype, " has no tensor type");
  }
}

DType dtype_of(GgmlType type) {
  require(!is_quantised(type), "gguf: ", type, " is no float type");
  return type == GgmlType::f32 ? DType::f32 : type == GgmlType::f16 ? DType::f16 : DType::bf16;
}

void pack_block(GgmlType type, const GgmlBlock& block, std::span<std::byte> bytes) {
  require(is_quantised(type) && std::ssize(bytes) == block_bytes(type), "gguf: a block of ", type, " in ", bytes.size(),
          " bytes");
  std::memcpy(bytes.data(), &block.d, sizeof block.d);
  if (type == GgmlType::q4_1) std::memcpy(bytes.data() + 2, &block.m, sizeof block.m);
  const std::span<std::byte> codes = bytes.subspan(codes_begin(type));
  if (type == GgmlType::q8_0) {
    std::memcpy(codes.data(), block.codes.data(), kGgmlBlock);
    return;
  }
  for (std::size_t j = 0; j < kHalf; ++j)
    codes[j] = std::byte(std::uint8_t(block.codes[j]) | std::uint8_t(block.codes[j + kHalf]) << 4);
}

GgmlBlock unpack_block(GgmlType type, std::span<const std::byte> bytes) {
  GgmlBlock block;
  std::memcpy(&block.d, bytes.data(), sizeof block.d);
  if (type == GgmlType::q4_1) std::memcpy(&block.m, bytes.data() + 2, sizeof block.m);
  const std::span<const std::byte> codes = bytes.subspan(codes_begin(type));
  if (type == GgmlType::q8_0) {
    std::memcpy(block.codes.data(), codes.data(), kGgmlBlock);
    return block;
  }
  for (std::size_t j = 0; j < kHalf; ++j) {
    block.codes[j] = std::int8_t(codes[j] & std::byte{15});
    block.codes[j + kHalf] = std::int8_t(codes[j] >> 4);
  }
  return block;
}

void dequantise_blocks(GgmlType type, std::span<const std::byte> bytes, std::span<float> values) {
  const std::int64_t blocks = std::ssize(values) / kGgmlBlock;
  require(is_quantised(type) && blocks * kGgmlBlock == std::ssize(values) &&
              blocks * block_bytes(type) == std::ssize(bytes),
          "gguf: ", values.size(), " values of ", type, " in ", bytes.size(), " bytes");
#pragma omp parallel for
  for (std::int64_t b = 0; b < blocks; ++b) {
    const GgmlBlock block =
        unpack_block(type, bytes.subspan(std::size_t(b * block_bytes(type)), std::size_t(block_bytes(type))));
    const float d = f16_to_f32(block.d), m = f16_to_f32(block.m);
    const int zero = type == GgmlType::q4_0 ? 8 : 0;
    // The product is exact, 11 bits by 8, so that whether it is contracted with the sum changes nothing.
    for (std::size_t i = 0; i < kGgmlBlock; ++i)
      values[std::size_t(b * kGgmlBlock) + i] = d * float(block.codes[i] - zero) + m;
  }
}

}  // namespace cbq
