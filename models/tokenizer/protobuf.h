// The wire format of protocol buffers, as far as sentencepiece models use it: fields one after the other, each a tag
// (number and wire type) and a content. Source: https://protobuf.dev/programming-guides/encoding/
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace cbq::tokenization {

enum class WireType { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

struct Field {
  std::uint64_t number;
  WireType type;
  std::uint64_t value;       // of a varint
  std::string_view content;  // of every other type
};

// The fields of one message.
class MessageReader {
 public:
  // `name` is the file, for errors; both must outlive the reader.
  MessageReader(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  // Nothing at the end. Throws Error{bad_input} for bytes that are no field.
  std::optional<Field> next();

 private:
  [[noreturn]] void fail_damaged() const;
  std::uint64_t varint();
  std::string_view take(std::uint64_t bytes);

  std::string_view rest_;
  const std::string& name_;
};

std::uint32_t little_endian_u32(std::string_view bytes);  // at least 4 of them

// The same the other way.
class MessageWriter {
 public:
  void add(std::uint64_t number, std::int64_t value);
  void add(std::uint64_t number, float value);
  void add(std::uint64_t number, std::string_view content);
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value);
  std::string bytes_;
};

}  // namespace cbq::tokenization
