// Codes packed into 32-bit words and back; the streams are those of core/bitpack.h.
#include "core/bitpack.h"
#include "cpu/backend.h"

namespace cbq::cpu {
namespace {

template <class T>
std::span<T> all_of(const View& view) {
  return {elements<T>(view), std::size_t(view.count())};
}

}  // namespace

void pack_codes(Context&, View words, View codes, int bits) {
  pack_rows(all_of<const std::uint8_t>(codes), codes.rows(), codes.cols(), bits, all_of<std::uint32_t>(words));
}

void unpack_codes(Context&, View codes, View words, int bits) {
  unpack_rows(all_of<const std::uint32_t>(words), codes.rows(), codes.cols(), bits, all_of<std::uint8_t>(codes));
}

}  // namespace cbq::cpu
