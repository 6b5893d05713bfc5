// How single values of the configuration are checked. Each rule has the same two functions: allowed() says what is
// accepted, as errors and the help print it; read() gives the value or throws Error{bad_input}.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "quant/config_value.h"

namespace cbq {

// "a, b or c".
std::string listed(const std::vector<std::string>& names);

struct IntegerRange {
  std::int64_t low, high;
  std::string allowed() const { return concat("an integer from ", low, " to ", high); }
  std::int64_t read(const ConfigValue& value) const;
};

// All 64 bits.
struct Seed {
  std::string allowed() const { return "an integer from 0 to 18446744073709551615"; }
  std::uint64_t read(const ConfigValue& value) const;
};

struct NumberRange {
  double low, high;
  std::string allowed() const { return concat("a number from ", low, " to ", high); }
  double read(const ConfigValue& value) const;
};

struct Switch {
  std::string allowed() const { return "true or false"; }
  bool read(const ConfigValue& value) const;
};

// Widths in bits, of which not every number is one.
struct BitWidths {
  std::vector<int> widths;
  std::string allowed() const;
  int read(const ConfigValue& value) const;
};

// A number of bytes, or text such as "500MB" or "5GB" (powers of 1000).
struct ByteSize {
  std::string allowed() const { return "a number of bytes or text such as \"500MB\" or \"5GB\", from 1 to 1000GB"; }
  std::int64_t read(const ConfigValue& value) const;
};

// -1 or a number of columns. Whether it divides the layers is seen when the model is known.
struct GroupSize {
  std::string allowed() const { return concat("-1 (the whole row) or ", columns().allowed()); }
  std::int64_t read(const ConfigValue& value) const;

 private:
  static IntegerRange columns() { return {1, 1 << 20}; }
};

// Becomes absolute, without "." and "..", relative paths taken from the value's folder.
struct Path {
  std::string allowed() const { return "a path"; }
  std::filesystem::path read(const ConfigValue& value) const;
};
struct Paths {
  std::string allowed() const { return "a path or a list of paths"; }
  std::vector<std::filesystem::path> read(const ConfigValue& value) const;
};

// None of them empty.
struct Texts {
  std::string allowed() const { return "a list of texts"; }
  std::vector<std::string> read(const ConfigValue& value) const;
};

template <class T>
struct Choices {
  struct Choice {
    std::string name;
    T value;
  };
  std::vector<Choice> choices;

  std::string allowed() const {
    std::vector<std::string> names;
    for (const Choice& choice : choices) names.push_back(choice.name);
    return listed(names);
  }
  T read(const ConfigValue& value) const {
    for (const Choice& choice : choices)
      if (value.json() == choice.name) return choice.value;
    value.reject(allowed());
  }
  std::string name_of(T value) const {
    for (const Choice& choice : choices)
      if (choice.value == value) return choice.name;
    fail(ErrorKind::failure, "config: a value has no name, expected one of ", allowed());
  }
};

// The widths that weights, and activations or the KV cache, can have; 16 leaves them as they are.
BitWidths weight_bits();
BitWidths activation_bits();

}  // namespace cbq
