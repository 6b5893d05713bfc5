// The text and kind of the Error that an action throws, so that a test can say what both must be.
#pragma once

#include <string>

#include "core/error.h"

namespace cbq {

// The text, or "no error". An error of another kind is marked, and so is a text of more than one line.
template <class Action>
std::string error_text(const Action& action, ErrorKind kind = ErrorKind::bad_input) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    if (error.kind() != kind) return "wrong kind: " + text;
    if (text.find('\n') != std::string::npos) return "more than one line: " + text;
    return text;
  }
  return "no error";
}

}  // namespace cbq
