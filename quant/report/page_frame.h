// The document around the sections.
#pragma once

#include <string>

namespace cbq {

// `title` and `subtitle` are plain text; `body` is HTML.
std::string page_frame(const std::string& title, const std::string& subtitle, const std::string& body);

}  // namespace cbq
