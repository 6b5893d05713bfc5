#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace cbq {

namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "the format is little-endian and bytes are used as they are");

constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  // the limit of the reference implementation

struct DTypeName {
  const char* name;
  DType dtype;
};
constexpr std::array<DTypeName, 9> kDTypeNames = {{{"F64", DType::f64},
                                                   {"F32", DType::f32},
                                                   {"F16", DType::f16},
                                                   {"BF16", DType::bf16},
                                                   {"I64", DType::i64},
                                                   {"I32", DType::i32},
                                                   {"I8", DType::i8},
                                                   {"U8", DType::u8},
                                                   {"BOOL", DType::u8}}};

// size_of(dtype) * product of sizes, or nothing when it exceeds 2^63 - 1. A size of 0 does not hide an overflow of the
// others: Shape multiplies some of them on their own.
std::optional<std::int64_t> byte_count(DType dtype, std::span<const std::int64_t> sizes) {
  std::int64_t bytes = size_of(dtype);
  bool empty = false;
  for (std::int64_t size : sizes) {
    empty = empty || size == 0;
    if (__builtin_mul_overflow(bytes, std::max<std::int64_t>(size, 1), &bytes)) return std::nullopt;
  }
  return empty ? 0 : bytes;
}

Shape shape_of(const std::vector<std::int64_t>& s) {
  switch (s.size()) {
    case 0: return {};
    case 1: return {s[0]};
    case 2: return {s[0], s[1]};
    case 3: return {s[0], s[1], s[2]};
    default: return {s[0], s[1], s[2], s[3]};
  }
}

// One entry of the header. `where` names file and tensor in messages.
class EntryReader {
 public:
  EntryReader(const json& entry, std::string where) : entry_(entry), where_(std::move(where)) {
    require_input(entry_.is_object(), where_, ": expected an object, found ", entry_.type_name());
  }

  DType dtype() const {
    const json& value = field("dtype");
    require_input(value.is_string(), where_, ": dtype: expected a string, found ", value.type_name());
    const auto& text = value.get_ref<const std::string&>();
    const auto found =
        std::find_if(kDTypeNames.begin(), kDTypeNames.end(), [&](const DTypeName& d) { return d.name == text; });
    require_input(found != kDTypeNames.end(), where_,
                  ": dtype: expected F64, F32, F16, BF16, I64, I32, I8, U8 or BOOL, found ", quoted_text(text),
                  "; convert the tensor or remove it from the file");
    return found->dtype;
  }

  // Non-negative whole numbers of an array.
  std::vector<std::int64_t> sizes(const char* key, std::size_t fewest, std::size_t most) const {
    const json& value = field(key);
    require_input(value.is_array(), where_, ": ", key, ": expected an array, found ", value.type_name());
    require_input(value.size() >= fewest && value.size() <= most, where_, ": ", key, ": expected ",
                  fewest == most ? "" : "at most ", most, " numbers, found ", value.size());
    std::vector<std::int64_t> numbers;
    for (const json& number : value) {
      const bool fits = number.is_number_unsigned() && number.get<std::uint64_t>() <= std::uint64_t(INT64_MAX);
      require_input(fits, where_, ": ", key, ": expected whole numbers from 0 to 2^63 - 1, found ",
                    quoted_text(number.dump()));
      numbers.push_back(number.get<std::int64_t>());
    }
    return numbers;
  }

  // Offsets in the file; in the header they count from the first byte of data.
  TensorInfo info(std::int64_t data_begin, std::int64_t data_bytes) const {
    const DType type = dtype();
    const auto shape = sizes("shape", 0, std::size_t(Shape::kMaxRank));
    const auto bytes = byte_count(type, shape);
    require_input(bytes.has_value(), where_, ": shape: expected a size below 2^63 bytes, found ", shape_of(shape));
    const auto offsets = sizes("data_offsets", 2, 2);
    require_input(offsets[0] <= offsets[1], where_, ": data_offsets: expected begin <= end, found begin ", offsets[0],
                  " and end ", offsets[1]);
    require_input(offsets[1] <= data_bytes, where_, ": data_offsets: the data should end at byte ", offsets[1],
                  ", the file holds ", data_bytes, " bytes of data; it may be cut off, fetch or export it again");
    require_input(offsets[1] - offsets[0] == *bytes, where_, ": data_offsets: ", type, " of shape ", shape_of(shape),
                  " takes ", *bytes, " bytes, found ", offsets[1] - offsets[0]);
    return {type, shape_of(shape), data_begin + offsets[0], *bytes};
  }

 private:
  const json& field(const char* key) const {
    const auto found = entry_.find(key);
    require_input(found != entry_.end(), where_, ": expected the key \"", key, "\", not found");
    return *found;
  }

  const json& entry_;
  std::string where_;
};

std::string tensor_text(const std::string& file_name, const std::string& tensor) {
  return concat(file_name, ": tensor ", quoted_text(tensor));
}

// In order of their offsets, tensors must cover [begin, end) of the file: each byte belongs to one tensor.
void check_coverage(const std::map<std::string, TensorInfo>& tensors, std::int64_t begin, std::int64_t end,
                    const std::string& file_name) {
  std::vector<const std::pair<const std::string, TensorInfo>*> order;
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.bytes) < std::pair(b->second.begin, b->second.bytes);
  });
  std::int64_t covered = begin;
  for (const auto* entry : order) {
    const TensorInfo& info = entry->second;
    require_input(info.begin >= covered, tensor_text(file_name, entry->first),
                  ": overlaps another tensor: expected begin ", covered - begin, ", found ", info.begin - begin);
    require_input(info.begin == covered, tensor_text(file_name, entry->first),
                  ": leaves a hole before it: expected begin ", covered - begin, ", found ", info.begin - begin);
    covered = info.begin + info.bytes;
  }
  require_input(covered == end, file_name, ": expected ", covered - begin, " bytes of data, found ", end - covered,
                " more that belong to no tensor");
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, const std::string& file_name) {
  require_input(std::ssize(file) >= kSafetensorsLengthBytes, file_name, ": expected a safetensors file of at least ",
                kSafetensorsLengthBytes, " bytes, found ", file.size(), " bytes");
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kSafetensorsLengthBytes);
  require_input(length > 0, file_name, ": expected a header, found header length 0");
  require_input(length <= std::uint64_t(kMaxHeaderBytes), file_name, ": expected a header of at most ", kMaxHeaderBytes,
                " bytes, found header length ", length, "; this may be no safetensors file");
  const std::int64_t data_begin = kSafetensorsLengthBytes + std::int64_t(length), file_bytes = std::ssize(file);
  require_input(data_begin <= file_bytes, file_name, ": expected a header of ", length, " bytes, found ",
                file_bytes - kSafetensorsLengthBytes, "; the file may be cut off, fetch or export it again");

  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kSafetensorsLengthBytes,
                              std::size_t(length));
  const json root = parse_json_text(text, file_name + " (header)");
  require_input(root.is_object(), file_name, ": header: expected an object, found ", root.type_name());
  SafetensorsHeader header;
  for (const auto& [key, entry] : root.items()) {
    if (key != kSafetensorsMetadataKey) {
      header.tensors[key] = EntryReader(entry, tensor_text(file_name, key)).info(data_begin, file_bytes - data_begin);
      continue;
    }
    require_input(entry.is_object(), file_name, ": ", key, ": expected an object, found ", entry.type_name());
    for (const auto& [name, value] : entry.items()) {
      require_input(value.is_string(), file_name, ": ", key, ": ", quoted_text(name), ": expected a string, found ",
                    value.type_name());
      header.metadata[name] = value.get<std::string>();
    }
  }
  check_coverage(header.tensors, data_begin, file_bytes, file_name);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), file_(path), header_(parse_safetensors_header(file_.bytes(), path.string())) {}

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  require_input(found != header_.tensors.end(), path_.string(), ": expected a tensor ", quoted_text(name),
                ", not found among ", header_.tensors.size(), " tensors");
  return found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const TensorInfo& tensor = info(name);
  return file_.bytes().subspan(std::size_t(tensor.begin), std::size_t(tensor.bytes));
}

void SafetensorsFile::release(const std::string& name) const {
  const TensorInfo& tensor = info(name);
  file_.release(tensor.begin, tensor.bytes);
}

}  // namespace cbq
