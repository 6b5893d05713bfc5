// The bytes of GGUF files for tests, valid ones and ones that no writer would make.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace cbq {

template <class T>
std::string little_endian(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
inline std::string gguf_text(std::string_view text) {
  return little_endian(std::uint64_t(text.size())) + std::string(text);
}
// An entry of the metadata: type as the file numbers it, value as its bytes.
inline std::string gguf_entry(std::string_view key, std::uint32_t type, const std::string& value) {
  return gguf_text(key) + little_endian(type) + value;
}
// Sizes with the innermost first.
inline std::string gguf_tensor(std::string_view name, std::initializer_list<std::uint64_t> sizes, std::uint32_t type,
                               std::uint64_t offset) {
  std::string bytes = gguf_text(name) + little_endian(std::uint32_t(sizes.size()));
  for (const std::uint64_t size : sizes) bytes += little_endian(size);
  return bytes + little_endian(type) + little_endian(offset);
}

struct GgufParts {
  std::uint64_t tensor_count = 0, entry_count = 0;
  std::string entries, tensors, data;
  std::uint32_t version = 3;
  std::size_t alignment = 32;

  std::string bytes() const {
    std::string file =
        "GGUF" + little_endian(version) + little_endian(tensor_count) + little_endian(entry_count) + entries + tensors;
    file.resize((file.size() + alignment - 1) / alignment * alignment);
    return file + data;
  }
};

// Every value type, arrays of each kind, every tensor type, ranks 0 to 4, an empty tensor.
inline GgufParts valid_gguf() {
  GgufParts parts;
  const auto entry = [&](std::string_view key, std::uint32_t type, const std::string& value) {
    parts.entries += gguf_entry(key, type, value);
    ++parts.entry_count;
  };
  const auto tensor = [&](std::string_view name, std::initializer_list<std::uint64_t> sizes, std::uint32_t type,
                          std::size_t bytes) {
    parts.tensors += gguf_tensor(name, sizes, type, parts.data.size());
    parts.data += std::string(bytes, name[0]);
    parts.data.resize((parts.data.size() + 31) / 32 * 32);
    ++parts.tensor_count;
  };
  entry("u8", 0, little_endian(std::uint8_t(200)));
  entry("i8", 1, little_endian(std::int8_t(-5)));
  entry("u16", 2, little_endian(std::uint16_t(60000)));
  entry("i16", 3, little_endian(std::int16_t(-300)));
  entry("u32", 4, little_endian(std::uint32_t(4'000'000'000)));
  entry("i32", 5, little_endian(std::int32_t(-7)));
  entry("f32", 6, little_endian(0.5f));
  entry("yes", 7, little_endian(std::uint8_t(1)));
  entry("text", 8, gguf_text("some text"));
  entry("u64", 10, little_endian(std::uint64_t(1) << 40));
  entry("i64", 11, little_endian(std::int64_t(-1) << 40));
  entry("f64", 12, little_endian(0.1));
  entry("texts", 9, little_endian(std::uint32_t(8)) + little_endian(std::uint64_t(2)) + gguf_text("a") + gguf_text(""));
  entry("floats", 9, little_endian(std::uint32_t(6)) + little_endian(std::uint64_t(1)) + little_endian(1.5f));
  entry("bytes", 9, little_endian(std::uint32_t(0)) + little_endian(std::uint64_t(3)) + "\x01\x02\xff");
  tensor("scalar", {}, 0, 4);
  tensor("half", {3, 2}, 1, 12);
  tensor("q4_0", {64, 1}, 2, 36);
  tensor("q4_1", {32}, 3, 20);
  tensor("q8_0", {32, 1, 2, 1}, 8, 68);
  tensor("none", {0, 7}, 0, 0);
  tensor("brain", {1}, 30, 2);
  return parts;
}

}  // namespace cbq
