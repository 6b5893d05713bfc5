// The steps around the BPE core, as tokenizer.json names them: normaliser, pre-tokenizer, decoder.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cbq::tokenization {

// Text -> text. `limit_bytes` bounds the result: Error{bad_input} instead of a text that grows beyond it.
using NormalizerStep = std::function<std::string(std::string text, std::size_t limit_bytes)>;

// A word on its way to BPE. `at_start`: its first byte is the first of the whole text.
struct Piece {
  std::string text;
  bool at_start;
};
using PreTokenizerStep = std::function<std::vector<Piece>(std::vector<Piece>)>;

// Tokens -> tokens; the text is what they join to.
using DecoderStep = std::function<std::vector<std::string>(std::vector<std::string> tokens, std::size_t limit_bytes)>;

// Each reads a component of tokenizer.json (null: no steps), with "Sequence" flattened. Supported:
//   normaliser     Prepend, Replace, NFC, NFD, NFKC, NFKD
//   pre-tokenizer  ByteLevel, Split (behaviours Isolated and Removed), Metaspace, Digits
//   decoder        ByteLevel, Metaspace, Replace (strings), ByteFallback, Fuse, Strip
// Error{bad_input} names any other component.
std::vector<NormalizerStep> normalizer_steps(const nlohmann::json& component, const std::string& where);
std::vector<PreTokenizerStep> pre_tokenizer_steps(const nlohmann::json& component, const std::string& where);
std::vector<DecoderStep> decoder_steps(const nlohmann::json& component, const std::string& where);

// Most bytes that `input_bytes` of text or tokens may grow to; the longest legitimate growth is NFKC's factor 18.
constexpr std::size_t growth_limit(std::size_t input_bytes) {
  return 64 * input_bytes + 65536;
}

// `text` with every `pattern` (not empty) replaced.
std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content,
                        std::size_t limit_bytes);

// The components of a "Sequence" (under `list_key`), of a single component, or of null: flat, at most 64.
std::vector<nlohmann::json> flat_components(const nlohmann::json& component, const char* list_key,
                                            const std::string& where);

[[noreturn]] void fail_unsupported(const std::string& where, const std::string& found, const std::string& supported);

}  // namespace cbq::tokenization
