#include <array>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/gguf.h"
#include "core/json.h"

namespace cbq {
namespace {

// Numbers of the value types as the file has them.
constexpr std::uint32_t kU8 = 0, kU32 = 4, kI32 = 5, kF32 = 6, kBool = 7, kText = 8, kArray = 9;

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append_text(std::string& bytes, std::string_view text) {
  append(bytes, std::uint64_t(text.size()));
  bytes += text;
}

template <class T>
void append_array(std::string& bytes, std::uint32_t type, std::span<const T> values) {
  append(bytes, type);
  append(bytes, std::uint64_t(values.size()));
  for (const T value : values) append(bytes, value);
}

std::int64_t padded(std::int64_t bytes) {
  return (bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
}

std::int64_t bytes_of(const GgufTensorSpec& spec) {
  std::vector<std::int64_t> sizes;
  for (int d = 0; d < spec.shape.rank(); ++d) sizes.push_back(spec.shape[d]);
  const auto bytes = byte_count(spec.type, sizes);
  require(bytes.has_value(), "gguf: ", quoted_text(spec.name), ": ", spec.shape, " has no rows of whole blocks of ",
          spec.type);
  return *bytes;
}

}  // namespace

void GgufMetadata::begin(std::string_view key, std::uint32_t type) {
  append_text(bytes_, key);
  append(bytes_, type);
  ++count_;
}

void GgufMetadata::add(std::string_view key, std::uint32_t value) {
  begin(key, kU32);
  append(bytes_, value);
}

void GgufMetadata::add(std::string_view key, float value) {
  begin(key, kF32);
  append(bytes_, value);
}

void GgufMetadata::add(std::string_view key, bool value) {
  begin(key, kBool);
  append(bytes_, std::uint8_t(value));
}

void GgufMetadata::add(std::string_view key, std::string_view value) {
  begin(key, kText);
  append_text(bytes_, value);
}

void GgufMetadata::add(std::string_view key, std::span<const std::int32_t> values) {
  begin(key, kArray);
  append_array(bytes_, kI32, values);
}

void GgufMetadata::add(std::string_view key, std::span<const std::uint8_t> values) {
  begin(key, kArray);
  append_array(bytes_, kU8, values);
}

void GgufMetadata::add(std::string_view key, std::span<const float> values) {
  begin(key, kArray);
  append_array(bytes_, kF32, values);
}

void GgufMetadata::add(std::string_view key, std::span<const std::string> values) {
  begin(key, kArray);
  append(bytes_, kText);
  append(bytes_, std::uint64_t(values.size()));
  for (const std::string& value : values) append_text(bytes_, value);
}

GgufWriter::GgufWriter(std::filesystem::path path, const GgufMetadata& metadata, std::vector<GgufTensorSpec> specs)
    : path_(std::move(path)), specs_(std::move(specs)), file_(path_) {
  std::string header = "GGUF";
  append(header, kGgufVersion);
  append(header, std::uint64_t(specs_.size()));
  append(header, metadata.count());
  header += metadata.bytes();
  std::int64_t offset = 0;
  for (const GgufTensorSpec& spec : specs_) {
    append_text(header, spec.name);
    append(header, std::uint32_t(spec.shape.rank()));
    for (int d = spec.shape.rank() - 1; d >= 0; --d) append(header, std::uint64_t(spec.shape[d]));
    append(header, std::uint32_t(spec.type));
    append(header, std::uint64_t(offset));
    begins_.push_back(offset);
    offset += padded(bytes_of(spec));
  }
  header.resize(std::size_t(padded(std::ssize(header))));
  for (std::int64_t& begin : begins_) begin += std::ssize(header);
  file_.reserve(std::ssize(header) + offset);
  file_.write_at(0, std::as_bytes(std::span(header)));
}

void GgufWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  require(current_ < specs_.size(), path_.string(), ": tensor ", quoted_text(name), " was not declared");
  const GgufTensorSpec& spec = specs_[current_];
  require(spec.name == name && bytes_of(spec) == std::ssize(bytes), path_.string(), ": expected tensor ",
          quoted_text(spec.name), " of ", bytes_of(spec), " bytes, found ", quoted_text(name), " of ", bytes.size());
  file_.write_at(begins_[current_], bytes);
  // What fills a tensor up to the alignment is written, so that equal models give equal files on every file system.
  const std::array<std::byte, kGgufAlignment> zeros{};
  const std::int64_t fill = padded(std::ssize(bytes)) - std::ssize(bytes);
  if (fill > 0) file_.write_at(begins_[current_] + std::ssize(bytes), std::span(zeros).first(std::size_t(fill)));
  ++current_;
}

void GgufWriter::finish() {
  require(current_ == specs_.size(), path_.string(), ": expected ", specs_.size(), " tensors, found ", current_);
  file_.commit();
}

}  // namespace cbq
