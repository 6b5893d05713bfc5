// Standard output, and how results look on it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbq {

// Makes descriptors 0 to 2 exist, so that no file of a run is opened under their numbers and written to by accident,
// and a reader that goes away an error instead of a signal.
void prepare_standard_streams();

// Writes at once. Error{failure} when the text cannot be written: a pipe without a reader, a closed descriptor, a full
// disk.
void print(std::string_view text);
// One object, indented.
void print_json(const nlohmann::ordered_json& object);

// Rows as lines with aligned columns: the first to the left, the others to the right.
std::string aligned(const std::vector<std::vector<std::string>>& rows);
// With `digits` digits behind the point; "-" for NaN.
std::string fixed(double value, int digits);

}  // namespace cbq
