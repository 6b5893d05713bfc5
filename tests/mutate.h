// Seeded mutation of file bytes for the tests that feed damaged files to the readers. Self-contained and deterministic:
// the same seed gives the same bytes on every machine.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace cbq::test {

// splitmix64 (Steele, Lea and Flood 2014): every seed is good, so case i is simply seeded with i.
class Rng {
 public:
  explicit Rng(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t x = state_;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
  }

  // Uniform enough in [0, count); count >= 1.
  std::size_t below(std::size_t count) { return static_cast<std::size_t>(next() % count); }

 private:
  std::uint64_t state_;
};

namespace detail {

struct Range {
  std::size_t begin, end;
};

// Every run of digits with its sign, fraction and exponent: what a JSON reader takes for a number.
inline std::vector<Range> numbers_in(std::string_view text) {
  constexpr std::string_view digits = "0123456789";
  std::vector<Range> found;
  for (std::size_t at = text.find_first_of(digits); at != std::string_view::npos;) {
    std::size_t begin = at;
    if (begin > 0 && text[begin - 1] == '-') --begin;
    const std::size_t end = std::min(text.find_first_not_of("0123456789.eE+-", at), text.size());
    found.push_back({begin, end});
    at = text.find_first_of(digits, end);
  }
  return found;
}

// Every quoted string; the test inputs hold few escaped quotes, and a wrong cut is a good mutation too.
inline std::vector<Range> strings_in(std::string_view text) {
  std::vector<Range> found;
  for (std::size_t open = text.find('"'); open != std::string_view::npos;) {
    const std::size_t close = text.find('"', open + 1);
    if (close == std::string_view::npos) break;
    found.push_back({open, close + 1});
    open = text.find('"', close + 1);
  }
  return found;
}

// The members "key": value of JSON text, the following comma included. Values end where their brackets balance.
inline std::vector<Range> members_in(std::string_view text) {
  std::vector<Range> found;
  for (const Range& key : strings_in(text)) {
    std::size_t at = text.find_first_not_of(" \t\r\n", key.end);
    if (at == std::string_view::npos || text[at] != ':') continue;
    int depth = 0;
    bool quoted = false;
    for (++at; at < text.size(); ++at) {
      const char c = text[at];
      if (c == '"' && text[at - 1] != '\\') quoted = !quoted;
      if (quoted) continue;
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (depth < 0 || (depth == 0 && c == ',')) break;
    }
    // One comma goes with the member, the one behind it or, for the last, the one before it.
    const bool comma = at < text.size() && text[at] == ',';
    const std::size_t before = key.begin > 0 ? text.find_last_not_of(" \t\r\n", key.begin - 1) : std::string_view::npos;
    const bool is_last = !comma && before != std::string_view::npos && text[before] == ',';
    found.push_back({is_last ? before : key.begin, at + (comma ? 1 : 0)});
  }
  return found;
}

inline std::string one_mutation(std::string bytes, Rng& rng) {
  static constexpr std::array<std::string_view, 16> kNumbers = {"0",          "-1",          "1",
                                                                "2147483647", "2147483648",  "4294967296",
                                                                "1e999",      "0.5",         "9223372036854775807",
                                                                "-0",         "-2147483649", "18446744073709551616",
                                                                "1e-400",     "NaN",         "9223372036854775808",
                                                                "255"};
  static constexpr std::array<std::string_view, 12> kValues = {
      "null", "true", "[]", "{}", "\"\"", "[[[[[[[[", "\"\\ud800\"", "\"(\"", "-1", "\"a b c\"", "\"(a+)+$\"", "\" \""};
  if (bytes.empty()) return std::string(1, static_cast<char>(rng.below(256)));
  const std::size_t at = rng.below(bytes.size());
  const std::size_t length = 1 + rng.below(std::min<std::size_t>(bytes.size() - at, 64));
  switch (rng.below(16)) {
    case 0: bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8))); return bytes;
    case 1: bytes[at] = static_cast<char>(rng.below(256)); return bytes;
    case 2: return bytes.substr(0, at);
    case 3: return bytes.erase(at, length);
    case 4: return bytes.insert(rng.below(bytes.size()), bytes.substr(at, length));
    case 5: {
      std::string noise;
      for (std::size_t i = 0; i < 1 + length % 8; ++i) noise += static_cast<char>(rng.below(256));
      return bytes.insert(at, noise);
    }
    default: break;
  }
  // The mutations that know JSON; binary files have few such places and take a splice of two places instead.
  const std::size_t kind = rng.below(4);
  const std::vector<Range> places = kind == 0 ? numbers_in(bytes) : kind == 3 ? strings_in(bytes) : members_in(bytes);
  if (places.empty()) {
    const std::string piece = bytes.substr(at, length);
    return bytes.replace(rng.below(bytes.size()), length, piece);
  }
  const Range place = places[rng.below(places.size())];
  const std::size_t size = place.end - place.begin;
  if (kind == 0) return bytes.replace(place.begin, size, kNumbers[rng.below(kNumbers.size())]);
  if (kind == 1) return bytes.erase(place.begin, size);
  if (kind == 3) {
    const Range other = places[rng.below(places.size())];
    const std::string piece = bytes.substr(other.begin, other.end - other.begin);
    return bytes.replace(place.begin, size, piece);
  }
  const std::size_t colon = bytes.find(':', place.begin);
  const bool comma = bytes[place.end - 1] == ',';
  if (colon == std::string::npos || colon >= place.end) return bytes.erase(place.begin, size);
  return bytes.replace(colon + 1, place.end - colon - 1,
                       std::string(kValues[rng.below(kValues.size())]) + (comma ? "," : ""));
}

}  // namespace detail

// `bytes` with one to four damages: flipped bits, replaced bytes, cuts, deleted, repeated or foreign stretches, and in
// JSON text replaced numbers and values, exchanged strings and removed members. Grows by at most 256 bytes.
inline std::string mutate(std::string bytes, Rng& rng) {
  // Mostly one: a file that is broken in many places says no more than at which one the reader stopped.
  const std::size_t count = rng.below(4) != 0 ? 1 : 2 + rng.below(3);
  for (std::size_t i = 0; i < count; ++i) bytes = detail::one_mutation(std::move(bytes), rng);
  return bytes;
}

}  // namespace cbq::test
