#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "core/safetensors.h"

namespace cbq {

namespace {

using nlohmann::json;

constexpr std::int64_t kDataAlignment = 64;  // a cache line, and more than any element needs

const char* format_name(DType dtype) {
  switch (dtype) {
    case DType::f64: return "F64";
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    case DType::f8: return "F8_E4M3";
    case DType::i64: return "I64";
    case DType::i32: return "I32";
    case DType::i8: return "I8";
    case DType::u8: return "U8";
  }
  return "";
}

// begins are offsets in the data, sizes are bytes; entries are listed as they lie on disk.
std::string header_text(const std::vector<TensorSpec>& specs, const std::vector<std::size_t>& order,
                        const std::vector<std::int64_t>& begins, const std::vector<std::int64_t>& sizes,
                        const std::map<std::string, std::string>& metadata) {
  std::string text = concat("{\"", kSafetensorsMetadataKey, "\":", json(metadata).dump());
  for (std::size_t i : order) {
    json shape = json::array();
    for (int d = 0; d < specs[i].shape.rank(); ++d) shape.push_back(specs[i].shape[d]);
    text += concat(",", json(specs[i].name).dump(), ":{\"dtype\":\"", format_name(specs[i].dtype),
                   "\",\"shape\":", shape.dump(), ",\"data_offsets\":[", begins[i], ",", begins[i] + sizes[i], "]}");
  }
  text += "}";
  while ((kSafetensorsLengthBytes + std::ssize(text)) % kDataAlignment != 0) text += ' ';
  return text;
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                                     const std::map<std::string, std::string>& metadata)
    : path_(std::move(path)), specs_(std::move(specs)), begins_(specs_.size()), sizes_(specs_.size()), file_(path_) {
  std::set<std::string_view> names = {kSafetensorsMetadataKey};
  std::vector<std::size_t> order;  // on disk: wider elements first, else as declared
  for (std::size_t i = 0; i < specs_.size(); ++i) {
    require(names.insert(specs_[i].name).second, tensor_text(i), ": the name is taken");
    sizes_[i] = size_of(specs_[i].dtype) * specs_[i].shape.count();
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return size_of(specs_[a].dtype) > size_of(specs_[b].dtype); });
  std::int64_t data_bytes = 0;
  for (std::size_t i : order) {
    begins_[i] = data_bytes;
    data_bytes += sizes_[i];
  }

  std::string text;
  try {
    text = header_text(specs_, order, begins_, sizes_, metadata);
  } catch (const json::exception&) {
    fail(ErrorKind::failure, path_.string(), ": tensor names and metadata must be UTF-8");
  }
  const std::uint64_t length = text.size();
  const std::int64_t data_begin = kSafetensorsLengthBytes + std::ssize(text);
  for (std::int64_t& begin : begins_) begin += data_begin;
  file_.reserve(data_begin + data_bytes);
  file_.write_at(0, std::as_bytes(std::span(&length, 1)));
  file_.write_at(kSafetensorsLengthBytes, std::as_bytes(std::span(text)));
}

void SafetensorsWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  const std::string expected = current_ < specs_.size() ? quoted_text(specs_[current_].name) : "no more tensors";
  require(current_ < specs_.size() && specs_[current_].name == name && written_ == 0, path_.string(), ": expected ",
          expected, ", found tensor ", quoted_text(name));
  require(std::ssize(bytes) == sizes_[current_], tensor_text(current_), ": expected ", sizes_[current_],
          " bytes, found ", bytes.size());
  if (bytes.empty()) ++current_;
  append(bytes);
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  skip_empty();
  require(current_ < specs_.size(), path_.string(), ": expected no more bytes, found ", bytes.size());
  require(std::ssize(bytes) <= sizes_[current_] - written_, tensor_text(current_), ": expected ",
          sizes_[current_] - written_, " more bytes, found ", bytes.size());
  file_.write_at(begins_[current_] + written_, bytes);
  written_ += std::ssize(bytes);
  if (written_ < sizes_[current_]) return;
  ++current_;
  written_ = 0;
}

void SafetensorsWriter::finish() {
  skip_empty();
  require(current_ == specs_.size(), path_.string(), ": expected all ", specs_.size(), " tensors before finish, found ",
          current_, " whole ones");
  file_.commit();
}

std::string SafetensorsWriter::tensor_text(std::size_t i) const {
  return concat(path_.string(), ": tensor ", quoted_text(specs_[i].name));
}

void SafetensorsWriter::skip_empty() {
  while (current_ < specs_.size() && sizes_[current_] == 0) ++current_;
}

}  // namespace cbq
