// The style sheet of the report.
#pragma once

#include <string_view>

namespace cbq {

// Light and dark by the reader's preference, one or two columns by the width, light on paper.
std::string_view report_style();

}  // namespace cbq
