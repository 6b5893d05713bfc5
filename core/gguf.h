// GGUF, the file of llama.cpp: one file with typed metadata and tensors, little-endian.
//   "GGUF", u32 version, u64 tensors, u64 metadata entries
//   entry:  key, u32 type, value        array: u32 type, u64 count, elements        string: u64 bytes, text
//   tensor: name, u32 dimensions, u64 sizes with the innermost first, u32 type, u64 offset in the data
//   padding to general.alignment, then the data, each tensor padded to it
// Source: docs/gguf.md of https://github.com/ggml-org/ggml
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/files.h"
#include "core/ggml_blocks.h"
#include "core/shape.h"

namespace cbq {

inline constexpr std::uint32_t kGgufVersion = 3;
inline constexpr std::uint32_t kGgufAlignment = 32;  // bytes, where general.alignment says nothing

// A metadata value: every integer type as i64, both float types as f64, arrays alike.
using GgufValue = std::variant<std::int64_t, double, bool, std::string, std::vector<std::int64_t>, std::vector<double>,
                               std::vector<std::string>>;

struct GgufTensor {
  GgmlType type = GgmlType::f32;
  Shape shape;             // outermost first, as everywhere in this program
  std::int64_t begin = 0;  // byte offset in the file
  std::int64_t bytes = 0;
};

struct GgufHeader {
  std::map<std::string, GgufValue> metadata;
  std::map<std::string, GgufTensor> tensors;
};

// Reads and checks the header of a whole file in memory; looks at no byte of data. Refused, each with its own text
// (bad_input): another magic, a version but 2 and 3; counts, strings and arrays beyond the file; arrays of arrays and
// of booleans; integers beyond i64; keys and names that are empty, longer than 65535 bytes or there twice; an alignment
// that is no power of two up to 2^20; more than 4 dimensions; sizes that overflow; tensor types that GgmlType lacks;
// rows that are no whole blocks; tensors that do not follow one another; data that is cut off, or bytes that belong to
// no tensor.
GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& file_name);

// A file mapped for reading; everything is checked on opening.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, GgufTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, GgufValue>& metadata() const { return header_.metadata; }
  bool contains(const std::string& name) const { return header_.tensors.contains(name); }
  // Error{bad_input} when there is no such tensor.
  const GgufTensor& tensor(const std::string& name) const;
  std::span<const std::byte> bytes(const std::string& name) const;
  // Drops the tensor's whole pages from memory; bytes() stays valid.
  void release(const std::string& name) const;

  // The metadata value of KEY, which must have type T: null when absent, Error{bad_input} when it has another type.
  template <class T>
  const T* find(const std::string& key) const {
    const auto found = header_.metadata.find(key);
    if (found == header_.metadata.end()) return nullptr;
    const T* value = std::get_if<T>(&found->second);
    if (!value) fail_type(key);
    return value;
  }

 private:
  [[noreturn]] void fail_type(const std::string& key) const;

  std::filesystem::path path_;
  MappedFile file_;
  GgufHeader header_;
};

// Metadata as the file stores it, in the order in which it is added.
class GgufMetadata {
 public:
  void add(std::string_view key, std::uint32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::int32_t> values);
  void add(std::string_view key, std::span<const std::uint8_t> values);
  void add(std::string_view key, std::span<const float> values);
  void add(std::string_view key, std::span<const std::string> values);

  std::uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void begin(std::string_view key, std::uint32_t type);

  std::string bytes_;
  std::uint64_t count_ = 0;
};

struct GgufTensorSpec {
  std::string name;
  GgmlType type = GgmlType::f32;
  Shape shape;  // outermost first
};

// Writes a file tensor by tensor in the order of the specs. The file appears under its name in finish(); destroyed
// before, the writer leaves nothing behind.
class GgufWriter {
 public:
  GgufWriter(std::filesystem::path path, const GgufMetadata& metadata, std::vector<GgufTensorSpec> specs);

  // The next tensor, whole. Error failure when name or size is not the one declared.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // Error failure when a tensor is missing. Then the file is made durable and gets its name.
  void finish();

 private:
  std::filesystem::path path_;
  std::vector<GgufTensorSpec> specs_;
  std::vector<std::int64_t> begins_;  // per spec: byte offset in the file
  std::size_t current_ = 0;
  AtomicFile file_;
};

}  // namespace cbq
