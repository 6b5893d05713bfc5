#include "core/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/json.h"

namespace cbq {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian and bytes are used as they are");

constexpr std::uint64_t kMaxNameBytes = 65535;  // of the specification, for keys
constexpr std::int64_t kMaxAlignment = 1 << 20;
constexpr std::uint64_t kMinEntryBytes = 8 + 4 + 1, kMinTensorBytes = 8 + 4 + 4 + 8;

enum class ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, text, array, u64, i64, f64 };

// Bytes of an element; of a string the length that goes before it.
std::uint64_t least_bytes(ValueType type) {
  switch (type) {
    case ValueType::u8:
    case ValueType::i8:
    case ValueType::boolean: return 1;
    case ValueType::u16:
    case ValueType::i16: return 2;
    case ValueType::u32:
    case ValueType::i32:
    case ValueType::f32: return 4;
    default: return 8;
  }
}

// Takes the header apart from front to back.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& name) : file_(file), name_(name) {}

  std::int64_t position() const { return std::int64_t(at_); }
  std::uint64_t left() const { return file_.size() - at_; }

  template <class T>
  T number(const std::string& what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::string text(const std::string& what) {
    const std::span<const std::byte> bytes = take(number<std::uint64_t>(what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // A key or the name of a tensor.
  std::string name(const char* what) {
    std::string text = this->text(what);
    require_input(!text.empty() && text.size() <= kMaxNameBytes, name_, ": ", what, ": expected 1 to ", kMaxNameBytes,
                  " bytes, found ", text.size());
    return text;
  }

  // A count of things that take at least `least` bytes each.
  std::uint64_t count(std::uint64_t least, const std::string& what) {
    const auto count = number<std::uint64_t>(what);
    require_input(count <= left() / least, name_, ": ", what, ": found ", count, " of them and ", left(),
                  " bytes left in the file; it may be cut off, fetch it again");
    return count;
  }

  std::int64_t integer(ValueType type, const std::string& what) {
    switch (type) {
      case ValueType::u8: return number<std::uint8_t>(what);
      case ValueType::i8: return number<std::int8_t>(what);
      case ValueType::u16: return number<std::uint16_t>(what);
      case ValueType::i16: return number<std::int16_t>(what);
      case ValueType::u32: return number<std::uint32_t>(what);
      case ValueType::i32: return number<std::int32_t>(what);
      case ValueType::i64: return number<std::int64_t>(what);
      default: break;
    }
    const auto value = number<std::uint64_t>(what);
    require_input(value <= std::uint64_t(INT64_MAX), name_, ": ", what, ": expected at most 2^63 - 1, found ", value);
    return std::int64_t(value);
  }

  GgufValue value(const std::string& what) {
    const ValueType type = value_type(what);
    switch (type) {
      case ValueType::f32: return double(number<float>(what));
      case ValueType::f64: return number<double>(what);
      case ValueType::text: return text(what);
      case ValueType::boolean: {
        const auto byte = number<std::uint8_t>(what);
        require_input(byte <= 1, name_, ": ", what, ": expected a boolean, 0 or 1, found ", int(byte));
        return byte == 1;
      }
      case ValueType::array: return array(what);
      default: return integer(type, what);
    }
  }

 private:
  std::span<const std::byte> take(std::uint64_t bytes, const std::string& what) {
    require_input(bytes <= left(), name_, ": ", what, ": expected ", bytes, " bytes, found ", left(),
                  "; the file may be cut off, fetch it again");
    const auto taken = file_.subspan(at_, bytes);
    at_ += bytes;
    return taken;
  }

  ValueType value_type(const std::string& what) {
    const auto number = this->number<std::uint32_t>(what);
    require_input(number <= std::uint32_t(ValueType::f64), name_, ": ", what,
                  ": expected a value type from 0 to 12, found ", number);
    return ValueType(number);
  }

  GgufValue array(const std::string& what) {
    const ValueType type = value_type(what);
    require_input(type != ValueType::array && type != ValueType::boolean, name_, ": ", what,
                  ": arrays of arrays and of booleans are not supported");
    const std::uint64_t n = count(least_bytes(type), what);
    const auto fill = [&]<class T>(std::vector<T> values, const auto& next) {
      values.reserve(n);
      for (std::uint64_t i = 0; i < n; ++i) values.push_back(next());
      return GgufValue(std::move(values));
    };
    if (type == ValueType::text) return fill(std::vector<std::string>(), [&] { return text(what); });
    if (type == ValueType::f32) return fill(std::vector<double>(), [&] { return double(number<float>(what)); });
    if (type == ValueType::f64) return fill(std::vector<double>(), [&] { return number<double>(what); });
    return fill(std::vector<std::int64_t>(), [&] { return integer(type, what); });
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::size_t at_ = 0;
};

struct FoundTensor {
  std::string name;
  GgufTensor tensor;  // begin: offset in the data
};

FoundTensor read_tensor(Reader& reader, const std::string& file_name) {
  FoundTensor found;
  found.name = reader.name("name of a tensor");
  const std::string what = concat("tensor ", quoted_text(found.name));
  const auto dimensions = reader.number<std::uint32_t>(what);
  require_input(dimensions <= std::uint32_t(Shape::kMaxRank), file_name, ": ", what, ": expected at most ",
                Shape::kMaxRank, " dimensions, found ", dimensions);
  std::vector<std::int64_t> sizes;
  for (std::uint32_t d = 0; d < dimensions; ++d) sizes.push_back(reader.integer(ValueType::u64, what));
  std::ranges::reverse(sizes);
  const auto number = reader.number<std::uint32_t>(what);
  const auto type = ggml_type(number);
  require_input(type.has_value(), file_name, ": ", what, ": types F32, F16, BF16, Q4_0, Q4_1 and Q8_0 are supported, ",
                "found type ", number, "; convert the file to one of them");
  const auto bytes = byte_count(*type, sizes);
  require_input(bytes.has_value(), file_name, ": ", what, ": expected rows of whole blocks of ", block_values(*type),
                " values and less than 2^63 bytes, found ", *type, " and ", dimensions, " sizes");
  Shape shape;
  for (const std::int64_t size : sizes) shape.append(size);
  found.tensor = {*type, shape, reader.integer(ValueType::u64, what), *bytes};
  return found;
}

std::int64_t padded(std::int64_t bytes, std::int64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

std::int64_t alignment_of(const std::map<std::string, GgufValue>& metadata, const std::string& file_name) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kGgufAlignment;
  const std::int64_t* value = std::get_if<std::int64_t>(&found->second);
  require_input(value && *value > 0 && *value <= kMaxAlignment && std::has_single_bit(std::uint64_t(*value)), file_name,
                ": general.alignment: expected a power of two up to ", kMaxAlignment, ", found ",
                value ? std::to_string(*value) : "another type");
  return *value;
}

// Tensors follow one another in the order of the header, each one padded; the last one's padding may be missing.
void place(GgufHeader& header, std::vector<FoundTensor> found, std::int64_t header_bytes, std::int64_t file_bytes,
           const std::string& file_name) {
  const std::int64_t alignment = alignment_of(header.metadata, file_name), begin = padded(header_bytes, alignment);
  std::int64_t end = 0;
  for (FoundTensor& entry : found) {
    GgufTensor& tensor = entry.tensor;
    const std::int64_t expected = padded(end, alignment);
    require_input(tensor.begin == expected, file_name, ": tensor ", quoted_text(entry.name), ": expected the offset ",
                  expected, ", found ", tensor.begin);
    require_input(begin <= file_bytes && tensor.bytes <= file_bytes - begin - tensor.begin, file_name, ": tensor ",
                  quoted_text(entry.name), ": expected ", tensor.bytes, " bytes of data, found fewer; ",
                  "the file may be cut off, fetch it again");
    end = tensor.begin + tensor.bytes;
    tensor.begin += begin;
    require_input(header.tensors.emplace(entry.name, tensor).second, file_name, ": tensor ", quoted_text(entry.name),
                  ": expected each name once, found it twice");
  }
  require_input(found.empty() || file_bytes <= begin + padded(end, alignment), file_name, ": expected ", end,
                " bytes of data, found ", file_bytes - begin, ", of which some belong to no tensor");
}

}  // namespace

GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& file_name) {
  constexpr std::string_view kMagic = "GGUF";
  require_input(file.size() >= kMagic.size() && std::memcmp(file.data(), kMagic.data(), kMagic.size()) == 0, file_name,
                ": expected a GGUF file, found another; fetch it again");
  Reader reader(file, file_name);
  reader.number<std::uint32_t>("magic");
  const auto version = reader.number<std::uint32_t>("version");
  require_input(version == 2 || version == kGgufVersion, file_name, ": versions 2 and 3 are supported, found ", version,
                "; convert the file");
  const auto tensors = reader.count(kMinTensorBytes, "tensors"), entries = reader.count(kMinEntryBytes, "metadata");
  GgufHeader header;
  for (std::uint64_t i = 0; i < entries; ++i) {
    std::string key = reader.name("key of the metadata");
    GgufValue value = reader.value(quoted_text(key));
    require_input(header.metadata.emplace(key, std::move(value)).second, file_name, ": ", quoted_text(key),
                  ": expected each key once, found it twice");
  }
  std::vector<FoundTensor> found;
  for (std::uint64_t i = 0; i < tensors; ++i) found.push_back(read_tensor(reader, file_name));
  place(header, std::move(found), reader.position(), std::ssize(file), file_name);
  return header;
}

}  // namespace cbq
