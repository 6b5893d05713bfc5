#include "models/tokenizer/protobuf.h"

#include <bit>
#include <cstring>

#include "core/error.h"

namespace cbq::tokenization {

std::optional<Field> MessageReader::next() {
  if (rest_.empty()) return std::nullopt;
  const std::uint64_t tag = varint();
  switch (tag & 7) {
    case 0: return Field{tag >> 3, WireType::varint, varint(), {}};
    case 1: return Field{tag >> 3, WireType::fixed64, 0, take(8)};
    case 2: return Field{tag >> 3, WireType::bytes, 0, take(varint())};
    case 5: return Field{tag >> 3, WireType::fixed32, 0, take(4)};
    default: fail_damaged();
  }
}

void MessageReader::fail_damaged() const {
  fail(ErrorKind::bad_input, name_, ": expected a sentencepiece model, found a damaged or different file with ",
       rest_.size(), " bytes that cannot be read; fetch the file again");
}

std::uint64_t MessageReader::varint() {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  fail_damaged();
}

std::string_view MessageReader::take(std::uint64_t bytes) {
  if (bytes > rest_.size()) fail_damaged();
  const std::string_view taken = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  return taken;
}

std::uint32_t little_endian_u32(std::string_view bytes) {
  static_assert(std::endian::native == std::endian::little);
  std::uint32_t value = 0;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

void MessageWriter::varint(std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
  bytes_ += static_cast<char>(value);
}

void MessageWriter::add(std::uint64_t number, std::int64_t value) {
  varint(number << 3 | std::uint64_t(WireType::varint));
  varint(std::uint64_t(value));
}

void MessageWriter::add(std::uint64_t number, float value) {
  varint(number << 3 | std::uint64_t(WireType::fixed32));
  bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void MessageWriter::add(std::uint64_t number, std::string_view content) {
  varint(number << 3 | std::uint64_t(WireType::bytes));
  varint(content.size());
  bytes_ += content;
}

}  // namespace cbq::tokenization
