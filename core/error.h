// The one exception type of the program, and the two ways to raise it.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace cbq {

// Decides the exit code: bad_input is something the user can correct (exit 2), everything else is a run that broke
// (exit 1). Two breaks have kinds of their own, because whoever knows what the work was can say how to go on:
// out_of_memory, after which everything made so far is still good, and device_lost, after which nothing on the device
// is.
enum class ErrorKind { bad_input, failure, out_of_memory, device_lost };

// Text: "<where>: <what was expected>, <what was given>; <what to do>", one line.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return kind_ == ErrorKind::bad_input ? 2 : 1; }

 private:
  ErrorKind kind_;
};

template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// Throws Error{kind} with the parts printed one after the other.
template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, concat(parts...));
}

// A condition of the program itself, such as two shapes that must chain. Always on; the text is only made on failure.
template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) fail(ErrorKind::failure, parts...);
}

// A condition on what the user gave: files, config keys, arguments.
template <class... Parts>
void require_input(bool condition, const Parts&... parts) {
  if (!condition) fail(ErrorKind::bad_input, parts...);
}

}  // namespace cbq
