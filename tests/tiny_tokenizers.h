// The tiny tokenizers of tests/data/tokenizers, as folders of models carry them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/files.h"
#include "models/tokenizer/kinds.h"
#include "tests/tokenizer_cases.h"

namespace cbq::test {

using nlohmann::json;
using tokenization::TokenizerConfig;
using Ids = std::vector<std::int32_t>;

inline const std::filesystem::path kData = "tests/data/tokenizers";

inline json tiny_json(const std::string& name) {
  return json::parse(read_file(kData / name));
}

inline std::unique_ptr<Tokenizer> from_json(const json& file, const TokenizerConfig& config = {}) {
  return tokenization::from_tokenizer_json(file.dump(), config, "tokenizer.json");
}

inline std::unique_ptr<Tokenizer> tiny_sentencepiece(const TokenizerConfig& config = {}) {
  return tokenization::from_sentencepiece(read_file(kData / "tiny-sp.model"), config, "tokenizer.model");
}

// vocab.json + merges.txt of the byte-level tiny tokenizer, with OPT's special tokens in front.
inline std::unique_ptr<Tokenizer> tiny_opt(const TokenizerConfig& config, const std::string& more_merges = "") {
  const json model = tiny_json("qwen2-style.json")["model"];
  json vocab = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
  for (const auto& [token, id] : model["vocab"].items()) vocab[token] = id.get<int>() + 4;
  std::string merges = "#version: 0.2\n";
  for (const json& merge : model["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  return tokenization::from_vocab_and_merges(vocab.dump(), merges + more_merges, config, "folder");
}

inline void expect_cases(const Tokenizer& tokenizer, const std::vector<Case>& cases) {
  for (const Case& c : cases) EXPECT_EQ(tokenizer.encode(c.text), c.ids) << json(c.text).dump();
}

inline void expect_round_trip(const Tokenizer& tokenizer, const std::string& text) {
  EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == text) << json(text.substr(0, 60)).dump();
}

}  // namespace cbq::test
