// Texts of local files as token ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/tokenizer/tokenizer.h"

namespace cbq {

// The texts of a file. .txt and .raw: the whole file is one text. .jsonl and .json: one object a line, or an array of
// objects or strings; field `text`. A trailing .gz is unpacked. Errors (bad_input) name file and line.
struct Texts {
  std::vector<std::string> texts;
  bool documents;  // true for .json and .jsonl: BOS before each text; false: one text, one BOS
};
Texts read_texts(const std::filesystem::path& file);

// BOS (where the tokenizer has one) and the tokens of each text, concatenated. Error{bad_input} when the tokenizer has
// ids beyond `vocab`, the model's: it does not belong to the model.
std::vector<std::int32_t> token_stream(const Tokenizer& tokenizer, const Texts& texts, std::int64_t vocab);

// The stream cut into windows of `seqlen`, the tail dropped; the first `limit` of them when limit > 0. Error{bad_input}
// when there is not one window: says how many tokens there were and how many are needed.
std::vector<std::vector<std::int32_t>> eval_windows(const std::vector<std::int32_t>& stream, std::int64_t seqlen,
                                                    std::int64_t limit, const std::filesystem::path& file);

// `count` windows of `seqlen` tokens at random starts of the stream, drawn as CPython's random.Random(seed).randint(0,
// tokens - seqlen - 1) draws them, so that other tools given the same stream take the same samples.
std::vector<std::vector<std::int32_t>> calibration_windows(const std::vector<std::int32_t>& stream, std::int64_t count,
                                                           std::int64_t seqlen, std::uint64_t seed,
                                                           const std::filesystem::path& file);

}  // namespace cbq
