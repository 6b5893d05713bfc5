// The pre-tokenizers: they cut a text into the words that BPE encodes one by one.
#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/json.h"
#include "models/tokenizer/byte_level.h"
#include "models/tokenizer/files.h"
#include "models/tokenizer/regex.h"
#include "models/tokenizer/steps.h"
#include "models/tokenizer/utf8.h"

namespace cbq::tokenization {
namespace {

using nlohmann::json;

enum class Behavior { isolated, removed };
enum class Invert { no, yes };
using Finder = std::function<std::vector<ByteRange>(std::string_view)>;

// Cuts every piece at the matches. `removed` drops the matches, with `invert` what lies between them.
PreTokenizerStep split_step(Finder find, Behavior behavior, Invert invert) {
  const bool drop_matches = behavior == Behavior::removed && invert == Invert::no;
  const bool drop_gaps = behavior == Behavior::removed && invert == Invert::yes;
  return [=, find = std::move(find)](const std::vector<Piece>& pieces) {
    std::vector<Piece> out;
    for (const Piece& piece : pieces) {
      std::size_t done = 0;
      const auto take_until = [&](std::size_t end, bool drop) {
        if (done < end && !drop) out.push_back({piece.text.substr(done, end - done), piece.at_start && done == 0});
        done = end;
      };
      for (const ByteRange& match : find(piece.text)) {
        take_until(match.begin, drop_gaps);
        take_until(match.end, drop_matches);
      }
      take_until(piece.text.size(), drop_gaps);
    }
    return out;
  };
}

Finder regex_finder(std::string_view pattern, const std::string& where) {
  return [regex = Regex(pattern, where)](std::string_view text) { return regex.matches(text); };
}

Finder literal_finder(std::string literal) {
  return [literal = std::move(literal)](std::string_view text) {
    std::vector<ByteRange> found;
    for (std::size_t at = text.find(literal); at != std::string_view::npos; at = text.find(literal, at)) {
      found.push_back({at, at + literal.size()});
      at += literal.size();
    }
    return found;
  };
}

PreTokenizerStep split_component(const json& component, const std::string& where) {
  const std::string behavior = required_text(component, "behavior", where);
  const bool isolated = behavior == "Isolated";
  if (!isolated && behavior != "Removed") fail_unsupported(concat(where, ": Split"), behavior, "Isolated, Removed");
  const Invert invert = flag(component, "invert", where).value_or(false) ? Invert::yes : Invert::no;
  const json& pattern = member(component, "pattern", where);
  const auto literal = text(pattern, "String", where);
  require_input(!literal || !literal->empty(), where, ": expected a pattern, found an empty string; repair the file");
  return split_step(literal ? literal_finder(*literal) : regex_finder(required_text(pattern, "Regex", where), where),
                    isolated ? Behavior::isolated : Behavior::removed, invert);
}

void add_byte_level(std::vector<PreTokenizerStep>& steps, const json& component, const std::string& where) {
  if (flag(component, "add_prefix_space", where).value_or(true)) {
    steps.push_back([](std::vector<Piece> pieces) {
      for (Piece& piece : pieces) {
        if (!piece.text.starts_with(' ')) piece.text.insert(0, 1, ' ');
      }
      return pieces;
    });
  }
  if (flag(component, "use_regex", where).value_or(true)) {
    steps.push_back(split_step(regex_finder(kGpt2Split, where), Behavior::isolated, Invert::no));
  }
  steps.push_back([](std::vector<Piece> pieces) {
    for (Piece& piece : pieces) piece.text = spell_bytes(piece.text);
    return pieces;
  });
}

// Spaces become `replacement`, one is put in front, and each word starts with its replacement character.
void add_metaspace(std::vector<PreTokenizerStep>& steps, const json& component, const std::string& where) {
  const std::string mark = required_text(component, "replacement", where);
  require_input(!mark.empty() && char_bytes(mark[0]) == mark.size(), where,
                ": \"replacement\": expected one character, found ", quoted_text(mark), "; repair the file");
  const bool legacy_prefix = flag(component, "add_prefix_space", where).value_or(true);
  const std::string scheme = text(component, "prepend_scheme", where).value_or(legacy_prefix ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    fail_unsupported(concat(where, ": Metaspace"), scheme, "always, first, never");
  }
  steps.push_back([mark, scheme](std::vector<Piece> pieces) {
    for (Piece& piece : pieces) {
      piece.text = replace_all(piece.text, " ", mark, growth_limit(piece.text.size()));
      const bool prefix = scheme == "always" || (scheme == "first" && piece.at_start);
      if (prefix && !piece.text.starts_with(mark)) piece.text.insert(0, mark);
    }
    return pieces;
  });
  if (!flag(component, "split", where).value_or(true)) return;
  steps.push_back([mark](const std::vector<Piece>& pieces) {
    std::vector<Piece> out;
    for (const Piece& piece : pieces) {
      for (std::size_t begin = 0; begin < piece.text.size();) {
        const std::size_t end =
            std::min(piece.text.find(mark, begin + char_bytes(piece.text[begin])), piece.text.size());
        out.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
        begin = end;
      }
    }
    return out;
  });
}

}  // namespace

std::vector<PreTokenizerStep> pre_tokenizer_steps(const json& component, const std::string& where) {
  std::vector<PreTokenizerStep> steps;
  int byte_levels = 0;
  for (const json& part : flat_components(component, "pretokenizers", where)) {
    const std::string type = required_text(part, "type", where);
    if (type == "ByteLevel") {
      // Each one can double the text.
      require_input(++byte_levels == 1, where, ": expected at most one ByteLevel, found another; repair the file");
      add_byte_level(steps, part, where);
    } else if (type == "Split") {
      steps.push_back(split_component(part, where));
    } else if (type == "Metaspace") {
      add_metaspace(steps, part, where);
    } else if (type == "Digits") {
      const bool individual = flag(part, "individual_digits", where).value_or(false);
      steps.push_back(
          split_step(regex_finder(individual ? "\\p{N}" : "\\p{N}+", where), Behavior::isolated, Invert::no));
    } else {
      fail_unsupported(where, type, "Sequence, ByteLevel, Split, Metaspace, Digits");
    }
  }
  return steps;
}

}  // namespace cbq::tokenization
