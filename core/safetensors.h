// The safetensors format: 8-byte little-endian header length, JSON header, tensor data without holes.
// Source: the format section of the safetensors README, https://github.com/huggingface/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/files.h"
#include "core/shape.h"

namespace cbq {

inline constexpr std::int64_t kSafetensorsLengthBytes = 8;  // of the header length that opens the file
inline constexpr const char* kSafetensorsMetadataKey = "__metadata__";

struct TensorInfo {
  DType dtype = DType::f32;
  Shape shape;
  std::int64_t begin = 0;  // byte offset in the file
  std::int64_t bytes = 0;  // size_of(dtype) * shape.count()
};

struct SafetensorsHeader {
  std::map<std::string, TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

// Reads and checks the header of a whole file in memory; looks at no byte of data. BOOL is read as u8. Refused, each
// with its own text (bad_input): a header length that is 0, beyond the file or beyond 100 MB; what parse_json_text
// refuses; other dtypes; more than 4 dimensions; sizes that overflow; data_offsets that are reversed, beyond the file,
// overlap, leave a hole or bytes at the end, or disagree with dtype and shape.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, const std::string& file_name);

// A file mapped for reading; everything is checked on opening. Data is read from disk when it is first touched.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  bool contains(const std::string& name) const { return header_.tensors.contains(name); }
  // Error bad_input when there is no such tensor.
  const TensorInfo& info(const std::string& name) const;
  // Little-endian elements in row-major order. The format does not promise that they are aligned to their size.
  std::span<const std::byte> bytes(const std::string& name) const;
  // Drops the tensor's whole pages from memory, so that what is resident follows what is in use; bytes() stays valid.
  void release(const std::string& name) const;

 private:
  std::filesystem::path path_;
  MappedFile file_;
  SafetensorsHeader header_;
};

struct TensorSpec {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
};

// Writes a file tensor by tensor in the order of the specs. On disk, tensors with wider elements come first, so that
// each one is aligned to its element size as readers that view in place need it; data starts at a multiple of 64 bytes.
// The file appears under its name in finish(); destroyed before, the writer leaves nothing behind.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // The next tensor, whole. Error failure when name or size is not the one declared.
  void write(const std::string& name, std::span<const std::byte> bytes);
  // The next bytes of the current tensor, which ends when all of its bytes are there. Empty tensors are passed over.
  void append(std::span<const std::byte> bytes);
  // Error failure when bytes are missing. Then the file is made durable and gets its name.
  void finish();

 private:
  std::string tensor_text(std::size_t i) const;
  void skip_empty();

  std::filesystem::path path_;
  std::vector<TensorSpec> specs_;
  std::vector<std::int64_t> begins_, sizes_;  // per spec: byte offset in the file, bytes
  std::size_t current_ = 0;                   // the spec that is being written
  std::int64_t written_ = 0;                  // bytes of it that are there
  AtomicFile file_;
};

}  // namespace cbq
