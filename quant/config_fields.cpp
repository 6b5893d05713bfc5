#include "quant/config_fields.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

namespace cbq {

namespace {

// The number of a JSON integer that int64 can hold.
std::optional<std::int64_t> integer(const nlohmann::json& json) {
  constexpr auto kLargest = std::uint64_t(std::numeric_limits<std::int64_t>::max());
  if (!json.is_number_integer()) return {};
  if (json.is_number_unsigned() && json.get<std::uint64_t>() > kLargest) return {};
  return json.get<std::int64_t>();
}

}  // namespace

std::string listed(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i)
    text += (i == 0 ? "" : i + 1 == names.size() ? " or " : ", ") + names[i];
  return text;
}

std::int64_t IntegerRange::read(const ConfigValue& value) const {
  const auto number = integer(value.json());
  if (!number || *number < low || *number > high) value.reject(allowed());
  return *number;
}

std::uint64_t Seed::read(const ConfigValue& value) const {
  if (!value.json().is_number_unsigned()) value.reject(allowed());  // the parser makes every integer >= 0 unsigned
  return value.json().get<std::uint64_t>();
}

double NumberRange::read(const ConfigValue& value) const {
  const double number = value.json().is_number() ? value.json().get<double>() : std::nan("");
  if (!(number >= low && number <= high)) value.reject(allowed());
  return number;
}

bool Switch::read(const ConfigValue& value) const {
  if (!value.json().is_boolean()) value.reject(allowed());
  return value.json().get<bool>();
}

std::string BitWidths::allowed() const {
  std::vector<std::string> names;
  for (int width : widths) names.push_back(std::to_string(width));
  return listed(names);
}

int BitWidths::read(const ConfigValue& value) const {
  const auto number = integer(value.json());
  for (int width : widths)
    if (number == width) return width;
  value.reject(allowed());
}

std::int64_t GroupSize::read(const ConfigValue& value) const {
  const auto number = integer(value.json());
  const bool is_size = number && *number >= columns().low && *number <= columns().high;
  if (!is_size && number != -1) value.reject(allowed());
  return *number;
}

std::int64_t ByteSize::read(const ConfigValue& value) const {
  constexpr std::int64_t kLargest = 1'000'000'000'000;
  std::optional<std::int64_t> bytes = integer(value.json());
  if (const std::string* text = value.json().get_ptr<const std::string*>()) {
    std::int64_t count = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), count);
    const std::string_view unit(end, std::size_t(text->data() + text->size() - end));
    for (const auto& [name, size] :
         {std::pair<std::string_view, std::int64_t>("KB", 1'000), {"MB", 1'000'000}, {"GB", 1'000'000'000}})
      if (error == std::errc() && unit == name && count <= kLargest / size) bytes = count * size;
  }
  if (!bytes || *bytes < 1 || *bytes > kLargest) value.reject(allowed());
  return *bytes;
}

std::filesystem::path Path::read(const ConfigValue& value) const {
  const std::string* text = value.json().get_ptr<const std::string*>();
  if (!text || text->empty() || text->find('\0') != std::string::npos) value.reject(allowed());
  const std::filesystem::path path = std::filesystem::absolute(value.folder() / *text).lexically_normal();
  return path.has_filename() || !path.has_relative_path() ? path : path.parent_path();
}

std::vector<std::filesystem::path> Paths::read(const ConfigValue& value) const {
  if (value.json().is_string()) return {Path().read(value)};
  if (!value.json().is_array()) value.reject(allowed());
  std::vector<std::filesystem::path> paths;
  for (std::size_t i = 0; i < value.json().size(); ++i) paths.push_back(Path().read(value.entry(i)));
  return paths;
}

std::vector<std::string> Texts::read(const ConfigValue& value) const {
  if (!value.json().is_array()) value.reject(allowed());
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < value.json().size(); ++i) {
    const std::string* text = value.json()[i].get_ptr<const std::string*>();
    if (!text || text->empty()) value.entry(i).reject("a text");
    texts.push_back(*text);
  }
  return texts;
}

BitWidths weight_bits() {
  return {{2, 3, 4, 5, 6, 8, 16}};
}
BitWidths activation_bits() {
  return {{4, 6, 8, 16}};
}

}  // namespace cbq
