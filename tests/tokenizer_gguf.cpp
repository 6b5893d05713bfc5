// Tokenizers that went through the metadata of a GGUF file give the ids of the originals.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/json.h"
#include "models/tokenizer/gguf_vocabulary.h"
#include "tests/error_text.h"
#include "tests/shared_data.h"
#include "tests/temp_folder.h"
#include "tests/tiny_tokenizers.h"

namespace cbq::test {
namespace {

namespace fs = std::filesystem;
using tokenization::GgufVocabulary;
using tokenization::PieceType;

ModelConfig config_of(std::int64_t vocab) {
  ModelConfig config{};
  config.vocab = vocab;
  return config;
}

GgufVocabulary through_a_file(const GgufVocabulary& vocabulary, const fs::path& file) {
  GgufMetadata metadata;
  tokenization::add_vocabulary(metadata, vocabulary);
  GgufWriter(file, metadata, {}).finish();
  return tokenization::read_vocabulary(GgufFile(file));
}

const std::vector<std::string> kTexts = {"",
                                         "Once upon a time, there was a little girl.",
                                         "  two  spaces and\ttab\r\n\n\nlines ",
                                         "It's we'LL 'tis 12345 3.14 -- (x+y)/2 == z?",
                                         "caf\xc3\xa9 cafe\xcc\x81 na\xc3\xafve \xe2\x84\xab",
                                         "\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9 \xe6\x97\xa5\xe6\x9c\xac",
                                         "\xe2\x96\x81underscore _x_ ...!!",
                                         std::string("nul\0byte", 8) + "\x01\x7f"};

// The tokenizer of `folder` and the one that comes back, on kTexts.
void expect_equal_ids(const fs::path& folder, std::int64_t vocab, const std::string& model) {
  SCOPED_TRACE(folder.string());
  const TempFolder temp;
  const auto original = Tokenizer::open(folder);
  const GgufVocabulary vocabulary =
      through_a_file(tokenization::gguf_vocabulary(folder, config_of(vocab)), temp / "t.gguf");
  EXPECT_EQ(vocabulary.model, model);
  ASSERT_EQ(std::ssize(vocabulary.tokens), vocab);
  const auto found = tokenization::make_tokenizer(vocabulary, "t.gguf");
  EXPECT_EQ(found->bos(), original->bos());
  if (original->eos()) {
    EXPECT_EQ(found->eos(), original->eos());
  }
  for (const std::string& text : kTexts) {
    const Ids ids = original->encode(text);
    EXPECT_EQ(found->encode(text), ids) << json(text).dump();
    EXPECT_TRUE(found->decode(ids) == original->decode(ids)) << json(text).dump();
  }
}

fs::path folder_with(const TempFolder& temp, const std::string& name, const std::string& content) {
  write_file(temp / name, content);
  return temp.path();
}

TEST(TokenizerGguf, SentencePiece) {
  const TempFolder temp;
  const fs::path folder = folder_with(temp, "tokenizer.model", read_file(kData / "tiny-sp.model"));
  const std::int64_t size = Tokenizer::open(folder)->vocab_size();
  expect_equal_ids(folder, size, "llama");
  expect_equal_ids(folder, size + 3, "llama");
  const GgufVocabulary v = tokenization::gguf_vocabulary(folder, config_of(size + 3));
  EXPECT_EQ(v.tokens.back(), concat("[PAD", size + 2, "]"));
  EXPECT_EQ(v.types.back(), PieceType::unused);
  EXPECT_EQ(v.types[std::size_t(*v.unk)], PieceType::unknown);
  EXPECT_TRUE(v.add_bos);
  EXPECT_NE(error_text([&] { tokenization::gguf_vocabulary(folder, config_of(size - 1)); }).find("expected at most"),
            std::string::npos);
}

TEST(TokenizerGguf, ByteLevel) {
  for (const auto& [name, pre] :
       {std::pair("llama3-style.json", "llama-bpe"), std::pair("qwen2-style.json", "qwen2")}) {
    const TempFolder temp;
    const fs::path folder = folder_with(temp, "tokenizer.json", read_file(kData / name));
    const std::int64_t size = Tokenizer::open(folder)->vocab_size();
    expect_equal_ids(folder, size + 1, "gpt2");
    EXPECT_EQ(tokenization::gguf_vocabulary(folder, config_of(size)).pre, pre);
  }
}

TEST(TokenizerGguf, SpecialTokensOfAByteLevelTextBecomeTheirIds) {
  const TempFolder temp;
  const fs::path folder = folder_with(temp, "tokenizer.json", read_file(kData / "llama3-style.json"));
  const auto tokenizer = tokenization::make_tokenizer(
      through_a_file(tokenization::gguf_vocabulary(folder, config_of(424)), temp / "t.gguf"), "t");
  expect_cases(*tokenizer, kLlama3Style);
}

// The merges of the large LLaMA tokenizer were made from scores, and become scores again.
TEST(TokenizerGguf, RealTokenizers) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
  const fs::path data = shared_data() / "data/tokenizers";
  const TempFolder temp;
  expect_equal_ids(data / "gpt2", 50257, "gpt2");
  expect_equal_ids(folder_with(temp, "tokenizer.json", read_file(data / "llama/tokenizer.json")), 32001, "llama");
  const TempFolder other;
  expect_equal_ids(data / "llama", 32001, "llama");
  expect_equal_ids(folder_with(other, "tokenizer.model", read_file(data / "llama/tokenizer.model")), 32000, "llama");
  expect_equal_ids(shared_data() / "models/llama-24m", 4096, "llama");
  expect_equal_ids(shared_data() / "models/stories-260k", 512, "llama");
}

TEST(TokenizerGguf, ChatTemplate) {
  const TempFolder temp;
  const fs::path folder = folder_with(temp, "tokenizer.model", read_file(kData / "tiny-sp.model"));
  const std::int64_t size = Tokenizer::open(folder)->vocab_size();
  const auto found = [&] { return tokenization::gguf_vocabulary(folder, config_of(size)).chat_template; };
  EXPECT_EQ(found(), "");
  write_file(folder / "tokenizer_config.json", R"({"chat_template": "one"})");
  EXPECT_EQ(found(), "one");
  write_file(folder / "tokenizer_config.json",
             R"({"chat_template": [{"name": "tool", "template": "t"}, {"name": "default", "template": "two"}]})");
  EXPECT_EQ(found(), "two");
  write_file(folder / "chat_template.jinja", "three");
  EXPECT_EQ(found(), "three");
}

TEST(TokenizerGguf, WhatAFileCannotSayIsRefused) {
  const auto error = [](const json& file) {
    const TempFolder temp;
    write_file(temp / "tokenizer.json", file.dump());
    return error_text([&] { tokenization::gguf_vocabulary(temp.path(), config_of(1000)); });
  };
  json file = tiny_json("llama3-style.json");
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+";
  EXPECT_NE(error(file).find("none of those that GGUF files name"), std::string::npos);
  file = tiny_json("llama3-style.json");
  file["normalizer"] = {{"type", "NFC"}};
  EXPECT_NE(error(file).find("none of those that GGUF files name"), std::string::npos);

  file = {{"model",
           {{"type", "BPE"},
            {"byte_fallback", true},
            {"unk_token", "<unk>"},
            {"vocab", {{"<unk>", 0}, {"a", 1}, {"b", 2}, {"ab", 3}, {"ba", 4}, {"aba", 5}}},
            {"merges", {"a b", "b a", "ab a", "a ba"}}}}};
  EXPECT_EQ(error(file), "no error");
  file["model"]["merges"] = {"a b", "b a", "ab a"};
  EXPECT_NE(error(file).find("\"a\" and \"ba\" make no \"aba\", which the scores of a GGUF file cannot say"),
            std::string::npos);
  file["model"]["merges"] = {"a b", "ab a", "b a", "a ba"};
  EXPECT_NE(error(file).find("token \"aba\" is made at two ranks"), std::string::npos);

  const TempFolder temp;
  write_file(temp / "vocab.json", R"({"a": 0})");
  write_file(temp / "merges.txt", "");
  EXPECT_NE(error_text([&] { tokenization::gguf_vocabulary(temp.path(), config_of(9)); }).find("needs tokenizer.json"),
            std::string::npos);
}

TEST(TokenizerGguf, HostileMetadataIsRefused) {
  const TempFolder temp;
  write_file(temp / "tokenizer.json", read_file(kData / "llama3-style.json"));
  const GgufVocabulary byte_level = tokenization::gguf_vocabulary(temp.path(), config_of(424));
  const TempFolder other;
  write_file(other / "tokenizer.model", read_file(kData / "tiny-sp.model"));
  const GgufVocabulary spm =
      tokenization::gguf_vocabulary(other.path(), config_of(Tokenizer::open(other.path())->vocab_size()));
  const auto error = [&](GgufVocabulary v, const auto& damage) {
    damage(v);
    return error_text([&] { tokenization::make_tokenizer(through_a_file(v, temp / "t.gguf"), "t.gguf"); });
  };
  EXPECT_EQ(error(byte_level, [](auto&) {}), "no error");
  EXPECT_EQ(error(spm, [](auto&) {}), "no error");
  EXPECT_EQ(error(spm, [](auto& v) { v.types.back() = PieceType::unknown; }), "no error") << "llama.cpp takes it too";
  EXPECT_NE(error(spm, [](auto& v) { v.model = "bert"; }).find("llama and gpt2 are supported"), std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.scores.pop_back(); }).find("scores: expected"), std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.types.pop_back(); }).find("token_type: expected"), std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.types[5] = PieceType(7); }).find("types from 0 to 6"), std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.tokens[5] = "\xff"; }).find("expected UTF-8"), std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.tokens[5] = v.tokens[6]; }).find("a text that no other piece has"),
            std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.bos = 1 << 30; }).find("expected an id of the"), std::string::npos);
  EXPECT_NE(error(spm, [](auto& v) { v.chars_map = "xyz"; }).find("expected a normaliser"), std::string::npos);
  EXPECT_NE(error(byte_level, [](auto& v) { v.pre = "default"; }).find("llama-bpe, qwen2, gpt-2"), std::string::npos);
  EXPECT_NE(error(byte_level, [](auto& v) { v.merges[0] = "a"; }).find("merges: expected"), std::string::npos);
  EXPECT_NE(error(byte_level, [](auto& v) { v.merges[0] = "\xff \xff"; }).find("expected UTF-8"), std::string::npos);
  EXPECT_NE(error(byte_level, [](auto& v) { v.tokens[5] = v.tokens[6]; }).find("expected each token once"),
            std::string::npos);
}

}  // namespace
}  // namespace cbq::test
