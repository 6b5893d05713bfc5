// Codes of 1 to 8 bits as a stream of bits in 32-bit words.
//
// Field i takes bits [i*bits, (i+1)*bits) of the stream; bit k of the stream is bit k % 32 of word k / 32, so fields
// may straddle words and the lowest bits come first. Bits after the last field are 0. GPTQ checkpoints and the dense
// packing of compressed-tensors both hold this stream.
#pragma once

#include <cstdint>
#include <span>

namespace cbq {

// ceil(count * bits / 32). Error failure: bits is not 1..8 or count is negative.
std::int64_t word_count(std::int64_t count, int bits);

// words: word_count(codes.size(), bits) entries. Error failure: another size, or a code above 2^bits - 1.
void pack(std::span<const std::uint8_t> codes, int bits, std::span<std::uint32_t> words);
void unpack(std::span<const std::uint32_t> words, int bits, std::span<std::uint8_t> codes);

// Each row of codes (R, C) is a stream of its own: words (R, word_count(C, bits)).
void pack_rows(std::span<const std::uint8_t> codes, std::int64_t rows, std::int64_t cols, int bits,
               std::span<std::uint32_t> words);
void unpack_rows(std::span<const std::uint32_t> words, std::int64_t rows, std::int64_t cols, int bits,
                 std::span<std::uint8_t> codes);

// Each column of codes (R, C) is a stream of its own: words (word_count(R, bits), C).
void pack_columns(std::span<const std::uint8_t> codes, std::int64_t rows, std::int64_t cols, int bits,
                  std::span<std::uint32_t> words);
void unpack_columns(std::span<const std::uint32_t> words, std::int64_t rows, std::int64_t cols, int bits,
                    std::span<std::uint8_t> codes);

}  // namespace cbq
