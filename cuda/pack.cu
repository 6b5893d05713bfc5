// Codes packed into 32-bit words and back; the streams are those of core/bitpack.h.
//
// Field i of a row takes its bits [i*bits, (i+1)*bits); bit k of the row is bit k % 32 of word k / 32.
#include "core/bitpack.h"
#include "cuda/launch.h"

namespace cbq::cuda {
namespace {

constexpr int kWordBits = 32;

// One thread a word, which gathers the fields that reach into it. Floor: codes read, words written, 1 + bits / 8 bytes
// a code; neighbours read the one code that both hold from L1.
__global__ void pack_kernel(Rows<std::uint32_t> words, Rows<const std::uint8_t> codes, int bits) {
  const std::int64_t count = words.rows * words.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / words.cols, w = i - r * words.cols, begin = w * kWordBits;
    const std::uint8_t* row = codes.data + r * codes.stride;
    std::uint32_t word = 0;
    for (std::int64_t f = begin / bits; f < codes.cols && f * bits < begin + kWordBits; ++f) {
      const int shift = int(f * bits - begin);  // negative for a field that begins in the word before
      word |= shift < 0 ? std::uint32_t(row[f]) >> -shift : std::uint32_t(row[f]) << shift;
    }
    words.data[r * words.stride + w] = word;
  }
}

// One thread a code. Floor: words read, codes written, 1 + bits / 8 bytes a code.
__global__ void unpack_kernel(Rows<std::uint8_t> codes, Rows<const std::uint32_t> words, int bits) {
  const std::int64_t count = codes.rows * codes.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / codes.cols, c = i - r * codes.cols, begin = c * bits;
    const std::uint32_t* word = words.data + r * words.stride + begin / kWordBits;
    const int shift = int(begin % kWordBits);
    std::uint32_t field = word[0] >> shift;
    if (shift + bits > kWordBits) field |= word[1] << (kWordBits - shift);
    codes.data[r * codes.stride + c] = std::uint8_t(field & ((1u << bits) - 1));
  }
}

void check_shapes(View words, View codes, int bits) {
  require(words.rows() == codes.rows() && words.cols() == word_count(codes.cols(), bits), "bitpack: expected ",
          codes.rows(), " rows of ", word_count(codes.cols(), bits), " words, found ", words.rows(), " of ",
          words.cols());
}

}  // namespace

void pack_codes(Context& ctx, View words, View codes, int bits) {
  check_shapes(words, codes, bits);
  if (codes.count() == 0) return;
  launch("pack_codes", ctx, shape_for(words.count()), pack_kernel, rows<std::uint32_t>(words),
         rows<const std::uint8_t>(codes), bits);
}

void unpack_codes(Context& ctx, View codes, View words, int bits) {
  check_shapes(words, codes, bits);
  if (codes.count() == 0) return;
  launch("unpack_codes", ctx, shape_for(codes.count()), unpack_kernel, rows<std::uint8_t>(codes),
         rows<const std::uint32_t>(words), bits);
}

}  // namespace cbq::cuda
