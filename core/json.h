// JSON as nlohmann::json, from files that may be hostile.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace cbq {

// Deeper nesting is refused. The files of this field nest less than 10 deep.
inline constexpr int kMaxJsonDepth = 64;

// Strict JSON (RFC 8259) in UTF-8: no comments, no NaN, no numbers beyond f64, no duplicate keys in an object, at most
// kMaxJsonDepth levels. Errors: bad_input, "NAME:LINE:COLUMN: what"; line and column count from 1, columns in bytes.
nlohmann::json parse_json_text(std::string_view text, const std::string& name);

// The same for a file of at most max_bytes bytes; NAME is the path.
nlohmann::json parse_json_file(const std::filesystem::path& path, std::int64_t max_bytes = std::int64_t(1) << 28);

// Text from a file as an error message shows it: in double quotes, ASCII, control characters escaped, cut when long.
std::string quoted_text(std::string_view text);

}  // namespace cbq
