// Which program this is: for `--version` and for what a run leaves behind.
#pragma once

#include <string_view>

namespace cbq {

std::string_view program_version();   // "0.1.0"
std::string_view program_commit();    // "639062f", "639062f+" with changes on top; "unknown" without a repository
std::string_view program_compiler();  // "g++ 12.2.0"

}  // namespace cbq
