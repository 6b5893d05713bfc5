#include "models/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <utility>

#include "core/error.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

template <auto Free>
struct Release {
  template <class T>
  void operator()(T* object) const {
    Free(object);
  }
};
template <class T, auto Free>
using Owned = std::unique_ptr<T, Release<Free>>;

constexpr std::size_t kMaxPatternBytes = 16384;
constexpr std::uint32_t kMaxMatchSteps = 10'000'000;
constexpr std::uint32_t kMaxMatchKib = 64 * 1024;

std::string message(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

// PCRE2 counts U+180E among \s, Unicode's White_Space and the reference engines do not: \s is spelled out.
std::string with_unicode_space(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's') {
        out += in_class ? "\\p{Z}\\t-\\r\\x{85}" : "[\\p{Z}\\t-\\r\\x{85}]";
      } else if (escaped == 'S' && !in_class) {
        out += "[^\\p{Z}\\t-\\r\\x{85}]";
      } else {
        out += c;
        out += escaped;
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

}  // namespace

struct Regex::Compiled {
  Owned<pcre2_code, pcre2_code_free> code;
  Owned<pcre2_match_context, pcre2_match_context_free> limits;
  std::string where;
};

Regex::Regex(std::string_view pattern, const std::string& where) {
  require_input(pattern.size() <= kMaxPatternBytes, where, ": expected a regular expression of at most ",
                kMaxPatternBytes, " bytes, found ", pattern.size(), "; shorten it");
  auto compiled = std::make_shared<Compiled>();
  const std::string spelled = with_unicode_space(pattern);
  int error = 0;
  std::size_t offset = 0;
  compiled->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
  require_input(compiled->code != nullptr, where, ": expected a regular expression, found one with an error near byte ",
                offset, " (", message(error), "); correct the pattern");
  // Where just-in-time compilation is not available pcre2_match interprets; the matches are the same.
  pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE);
  compiled->limits.reset(pcre2_match_context_create(nullptr));
  require(compiled->limits != nullptr, where, ": out of memory for a regular expression");
  pcre2_set_match_limit(compiled->limits.get(), kMaxMatchSteps);
  pcre2_set_heap_limit(compiled->limits.get(), kMaxMatchKib);
  compiled->where = where;
  compiled_ = std::move(compiled);
}

std::vector<ByteRange> Regex::matches(std::string_view text) const {
  const Owned<pcre2_match_data, pcre2_match_data_free> data(
      pcre2_match_data_create_from_pattern(compiled_->code.get(), nullptr));
  require(data != nullptr, compiled_->where, ": out of memory for a regular expression");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  // The text is valid UTF-8; checking it again at every match would make the walk quadratic.
  const auto match = [&](std::size_t at, std::uint32_t options) {
    return pcre2_match(compiled_->code.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK | options, data.get(),
                       compiled_->limits.get());
  };
  std::vector<ByteRange> found;
  for (std::size_t at = 0; at <= text.size();) {
    int result = match(at, 0);
    // The compiled code has a small fixed stack, the interpreter takes the heap.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(at, PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) break;
    require_input(result > 0, compiled_->where,
                  ": expected a regular expression that matches in bounded time, found one that fails at byte ", at,
                  " of the text (", message(result), "); simplify the pattern");
    const std::size_t* offsets = pcre2_get_ovector_pointer(data.get());
    const ByteRange range{offsets[0], offsets[1]};
    require_input(range.begin <= range.end && range.begin >= at, compiled_->where,
                  ": expected a regular expression whose matches advance, found one that steps back; remove \\K");
    if (range.begin < range.end) {
      found.push_back(range);
      at = range.end;
      continue;
    }
    // An empty match right behind another match is not one of its own.
    if (found.empty() || found.back().end != range.begin) found.push_back(range);
    at = range.end + (range.end < text.size() ? char_bytes(text[range.end]) : 1);
  }
  return found;
}

}  // namespace cbq::tokenization
