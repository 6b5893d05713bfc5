// The regular expressions of pre-tokenizers and normalisers, through PCRE2.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace cbq::tokenization {

struct ByteRange {
  std::size_t begin, end;
};

// Immutable and shared between threads. Throws Error{bad_input} naming `where` for a pattern that does not compile.
class Regex {
 public:
  Regex(std::string_view pattern, const std::string& where);

  // All matches from left to right, empty ones included, as Oniguruma and Perl walk them. `text` is valid UTF-8. Throws
  // Error{bad_input} when one match takes more than ten million steps (a pattern that backtracks without end).
  std::vector<ByteRange> matches(std::string_view text) const;

 private:
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

}  // namespace cbq::tokenization
