// Ids and texts equal those of the reference libraries, on the tiny tokenizers.
#include "models/tokenizer/tokenizer.h"

#include <chrono>
#include <thread>

#include "tests/error_text.h"
#include "tests/tiny_tokenizers.h"

namespace cbq {
namespace {

using namespace test;

TEST(Tokenizer, Llama3StyleEqualsReference) {
  const auto tokenizer = from_json(tiny_json("llama3-style.json"));
  expect_cases(*tokenizer, test::kLlama3Style);
  for (const Case& c : test::kLlama3Style) expect_round_trip(*tokenizer, c.text);
  EXPECT_EQ(tokenizer->bos(), tokenizer->encode("<|begin_of_text|>").at(0));
  EXPECT_EQ(tokenizer->vocab_size(), 424);
}

TEST(Tokenizer, Qwen2StyleEqualsReference) {
  const auto tokenizer = from_json(tiny_json("qwen2-style.json"));
  expect_cases(*tokenizer, test::kQwen2Style);
  EXPECT_EQ(tokenizer->bos(), std::nullopt);
}

TEST(Tokenizer, LlamaStyleEqualsReference) {
  const auto tokenizer = from_json(tiny_json("llama-style.json"));
  expect_cases(*tokenizer, test::kLlamaStyle);
  EXPECT_EQ(tokenizer->bos(), 1);
}

TEST(Tokenizer, SentencePieceEqualsReference) {
  const auto tokenizer = tiny_sentencepiece();
  expect_cases(*tokenizer, test::kTinySentencePiece);
  for (const char* text : {"", " leading", "two  spaces ", "\ttab\n", "caf\xc3\xa9 \xf0\x9f\x91\xa8"}) {
    expect_round_trip(*tokenizer, text);
  }
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->vocab_size(), 400);
}

TEST(Tokenizer, MergesAsStringsAndAsPairsAreTheSame) {
  json file = tiny_json("qwen2-style.json");
  const Ids expected = from_json(file)->encode("the quick brown fox");
  for (json& merge : file["model"]["merges"]) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  EXPECT_EQ(from_json(file)->encode("the quick brown fox"), expected);
}

TEST(Tokenizer, PrependAndReplaceEqualMetaspace) {
  json file = tiny_json("llama-style.json");
  const auto metaspace = from_json(file);
  file["pre_tokenizer"] = nullptr;
  file["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  const auto normalizer = from_json(file);
  for (const char* text : {"the cat and  the dog", "x\n\n y", "1", ""}) {
    EXPECT_EQ(normalizer->encode(text), metaspace->encode(text)) << text;
    expect_round_trip(*normalizer, text);
  }
}

TEST(Tokenizer, ByteLevelAloneSplitsAsSplitWithGpt2Regex) {
  json file = tiny_json("qwen2-style.json");
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  file["model"].erase("type");  // as the oldest files have it
  const auto tokenizer = from_json(file);
  const auto legacy = tiny_opt({});
  for (const char* text : {"It's the  fox's 12345", " \n\n x \t", "caf\xc3\xa9 we'LL"}) {
    Ids ids = tokenizer->encode(text);
    for (std::int32_t& id : ids) id += 4;
    EXPECT_EQ(legacy->encode(text), ids) << text;
    expect_round_trip(*legacy, text);
  }
}

TEST(Tokenizer, VocabAndMergesKnowTheSpecialTokensThatTheFilesName) {
  const auto opt = tiny_opt({});
  EXPECT_EQ(opt->bos(), 2);
  EXPECT_EQ(opt->eos(), 2);
  EXPECT_EQ(opt->encode("</s><pad></s>"), (Ids{2, 1, 2}));
  EXPECT_GT(opt->encode("<s>").size(), 1u);  // OPT's BOS is </s>; <s> is text
  TokenizerConfig config;
  config.bos_token = "<s>";
  EXPECT_EQ(tiny_opt(config)->encode("<s>"), Ids{0});
  EXPECT_EQ(tiny_opt(config)->bos(), std::nullopt);
  config.add_bos_token = true;
  EXPECT_EQ(tiny_opt(config)->bos(), 0);
}

TEST(Tokenizer, BosFollowsTheConfigFile) {
  TokenizerConfig off;
  off.add_bos_token = false;
  EXPECT_EQ(tiny_sentencepiece(off)->bos(), std::nullopt);
  EXPECT_EQ(tiny_opt(off)->bos(), std::nullopt);
  EXPECT_EQ(from_json(tiny_json("llama3-style.json"), off)->bos(), std::nullopt);
  TokenizerConfig on;
  on.add_bos_token = true;
  on.bos_token = "<|endoftext|>";
  EXPECT_EQ(from_json(tiny_json("qwen2-style.json"), on)->bos(), 400);
  on.bos_token = "<absent>";
  EXPECT_EQ(
      error_text([&] { from_json(tiny_json("qwen2-style.json"), on); }),
      "tokenizer.json: add_bos_token is true: expected a bos_token of the vocabulary, found \"<absent>\"; correct "
      "tokenizer_config.json");
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const std::string bad = "a\xff\xe6\x97z\xf0\x9f\x91";  // a stray byte, two bytes of three, three of four
  // What CPython's errors="replace" gives.
  const std::string replaced = "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd";
  std::vector<std::unique_ptr<Tokenizer>> all;
  for (const char* name : {"llama3-style.json", "qwen2-style.json", "llama-style.json"}) {
    all.push_back(from_json(tiny_json(name)));
  }
  all.push_back(tiny_sentencepiece());
  all.push_back(tiny_opt({}));
  for (const auto& tokenizer : all) EXPECT_EQ(tokenizer->decode(tokenizer->encode(bad)), replaced);
}

TEST(Tokenizer, DecodeRefusesUnknownIds) {
  for (const std::int32_t id : {-1, 424, 2147483647}) {
    const Ids ids = {1, id};
    EXPECT_NE(
        error_text([&] { from_json(tiny_json("llama3-style.json"))->decode(ids); }).find("the ids are of another"),
        std::string::npos);
    EXPECT_NE(error_text([&] { tiny_sentencepiece()->decode(ids); }).find("the ids are of another"), std::string::npos);
  }
}

TEST(Tokenizer, OneLongWordIsEncodedInReasonableTime) {
  const auto tokenizer = from_json(tiny_json("llama-style.json"));  // no splitting: the text is one word
  std::string text = "x";
  while (text.size() < 1'300'000) text += " the cat and the dog aaaaaaaa";
  const auto start = std::chrono::steady_clock::now();
  const Ids ids = tokenizer->encode(text);
  // A quadratic merge loop takes an hour here.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
  EXPECT_TRUE(tokenizer->decode(ids) == text);
}

TEST(Tokenizer, EncodeIsThreadSafe) {
  const auto tokenizer = from_json(tiny_json("qwen2-style.json"));
  const std::string text = "The quick brown fox jumps over the lazy dog. It's 12345 caf\xc3\xa9s <mask>\n\n";
  const Ids expected = tokenizer->encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) count += tokenizer->encode(text) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

}  // namespace
}  // namespace cbq
