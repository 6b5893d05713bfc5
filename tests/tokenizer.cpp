#include "models/tokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "models/tokenizer_kinds.h"
#include "tests/error_text.h"
#include "tests/temp_folder.h"
#include "tests/tokenizer_cases.h"

namespace cbq {
namespace {

using nlohmann::json;
using test::Case;
using tokenization::TokenizerConfig;
using Ids = std::vector<std::int32_t>;

const std::filesystem::path kData = "tests/data/tokenizers";

std::filesystem::path shared_data() {
  const char* given = std::getenv("CBQ_TEST_DATA");
  return given != nullptr ? given : "../shared";
}

#define SKIP_WITHOUT_SHARED_DATA()             \
  if (!std::filesystem::exists(shared_data())) \
  GTEST_SKIP() << "no test data at " << shared_data() << "; set CBQ_TEST_DATA"

json tiny_json(const std::string& name) {
  return json::parse(read_file(kData / name));
}

std::unique_ptr<Tokenizer> from_json(const json& file, const TokenizerConfig& config = {}) {
  return tokenization::from_tokenizer_json(file.dump(), config, "tokenizer.json");
}

std::unique_ptr<Tokenizer> tiny_sentencepiece(const TokenizerConfig& config = {}) {
  return tokenization::from_sentencepiece(read_file(kData / "tiny-sp.model"), config, "tokenizer.model");
}

// vocab.json + merges.txt of the byte-level tiny tokenizer, with OPT's special tokens in front.
std::unique_ptr<Tokenizer> tiny_opt(const TokenizerConfig& config, const std::string& more_merges = "") {
  const json model = tiny_json("qwen2-style.json")["model"];
  json vocab = {{"<s>", 0}, {"<pad>", 1}, {"</s>", 2}, {"<unk>", 3}};
  for (const auto& [token, id] : model["vocab"].items()) vocab[token] = id.get<int>() + 4;
  std::string merges = "#version: 0.2\n";
  for (const json& merge : model["merges"]) {
    merges += merge[0].get<std::string>() + " " + merge[1].get<std::string>() + "\n";
  }
  return tokenization::from_vocab_and_merges(vocab.dump(), merges + more_merges, config, "folder");
}

void expect_cases(const Tokenizer& tokenizer, const std::vector<Case>& cases) {
  for (const Case& c : cases) EXPECT_EQ(tokenizer.encode(c.text), c.ids) << json(c.text).dump();
}

void expect_round_trip(const Tokenizer& tokenizer, const std::string& text) {
  EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == text) << json(text.substr(0, 60)).dump();
}

std::uint64_t fnv1a(const Ids& ids) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const std::int32_t id : ids) {
    for (int byte = 0; byte < 4; ++byte)
      hash = (hash ^ ((static_cast<std::uint32_t>(id) >> 8 * byte) & 0xff)) * 0x100000001b3u;
  }
  return hash;
}

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

// A change of the Qwen2-like file, and how its error starts.
struct BadFile {
  const char* pointer;
  json value;
  const char* error;
};

TEST(Tokenizer, DamagedTokenizerJsonGivesOneClearError) {
  const std::vector<BadFile> files = {
      {"/model/type", "Unigram",
       "tokenizer.json: model: expected one of BPE, found \"Unigram\", which is not supported"},
      {"/normalizer", {{"type", "BertNormalizer"}}, "tokenizer.json: normalizer: expected one of Sequence, Prepend"},
      {"/pre_tokenizer",
       {{"type", "Whitespace"}},
       "tokenizer.json: pre_tokenizer: expected one of Sequence, ByteLevel"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Contiguous",
       "tokenizer.json: pre_tokenizer: Split: expected one of"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(", "tokenizer.json: pre_tokenizer: expected a regular expr"},
      {"/pre_tokenizer/pretokenizers/0/type", "ByteLevel", "tokenizer.json: pre_tokenizer: expected at most one ByteL"},
      {"/decoder", {{"type", "WordPiece"}}, "tokenizer.json: decoder: expected one of Sequence, ByteLevel"},
      {"/post_processor", {{"type", "BertProcessing"}}, "tokenizer.json: post_processor: expected one of Sequence"},
      {"/model/vocab/!", -1, "tokenizer.json: model: vocab: \"!\": expected a token id from 0 to 2147483646, found -1"},
      {"/model/vocab/!", 18446744073709551615u, "tokenizer.json: model: vocab: \"!\": expected a token id from 0"},
      {"/model/vocab/!", 1.5,
       "tokenizer.json: model: vocab: \"!\": expected a token id from 0 to 2147483646, found 1.5"},
      {"/model/vocab/!", 5, "tokenizer.json: model: expected one token for id 5, found"},
      {"/model/vocab", json::object(), "tokenizer.json: model: \"vocab\": expected an object of tokens and ids"},
      {"/model/merges/0",
       {"zz", "q"},
       "tokenizer.json: model: merge 0: expected tokens of the vocabulary, found \"zz\""},
      {"/model/merges/0", "a b c", "tokenizer.json: model: merges: expected \"left right\""},
      {"/model/unk_token", "nope", "tokenizer.json: model: \"unk_token\": expected a token of the vocabulary"},
      {"/model/continuing_subword_prefix", "##", "tokenizer.json: model: \"continuing_subword_prefix\": expected null"},
      {"/model/dropout", 0.1, "tokenizer.json: model: \"dropout\": expected null, found \"0.1\""},
      {"/added_tokens/0/id", 3, "tokenizer.json: added_tokens: expected one token for id 3, found"},
      {"/added_tokens/0/content", "", "tokenizer.json: added_tokens: expected a token, found an empty \"content\""},
      {"/added_tokens", 7, "tokenizer.json: \"added_tokens\": expected an array, found number"},
      {"/model", nullptr, "tokenizer.json: model: expected an object, found null"}};
  for (const BadFile& bad : files) {
    json file = tiny_json("qwen2-style.json");
    file[json::json_pointer(bad.pointer)] = bad.value;
    const std::string text = error_text([&] { from_json(file); });
    EXPECT_TRUE(text.starts_with(bad.error)) << bad.pointer << ": " << text;
  }
  EXPECT_TRUE(error_text([] {
                tokenization::from_tokenizer_json("{\n \"model\": [1,,2]}", {}, "t.json");
              }).starts_with("t.json:2:14: "));
}

TEST(Tokenizer, EndlessBacktrackingIsAnError) {
  json file = tiny_json("qwen2-style.json");
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$";
  const auto tokenizer = from_json(file);
  EXPECT_NE(error_text([&] { tokenizer->encode(std::string(60, 'a') + "b"); }).find("matches in bounded time"),
            std::string::npos);
}

TEST(Tokenizer, GrowthOfTheTextIsBounded) {
  json file = tiny_json("qwen2-style.json");
  json replace = json::parse(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"})");
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<json>(40, replace)}};
  EXPECT_NE(error_text([&] { from_json(file)->encode("aaaa"); }).find("let a text grow to at most"), std::string::npos);
}

TEST(Tokenizer, DamagedVocabAndMergesGiveOneClearError) {
  EXPECT_EQ(error_text([] { tiny_opt({}, "zz q\n"); }).substr(0, 28), "folder/merges.txt: merge 144");
  EXPECT_EQ(error_text([] { tiny_opt({}, "a b c\n"); }).substr(0, 22), "folder/merges.txt:146:");
  EXPECT_EQ(error_text([] { tiny_opt({}, "\xff a\n"); }),
            "folder/merges.txt: expected UTF-8, found other bytes; repair the file");
}

TEST(Tokenizer, DamagedSentencePieceModelGivesOneClearError) {
  const std::string model = read_file(kData / "tiny-sp.model");
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, model.size() / 2, model.size() - 1}) {
    const std::string text =
        error_text([&] { tokenization::from_sentencepiece(model.substr(0, bytes), {}, "t.model"); });
    EXPECT_TRUE(text.starts_with("t.model: expected a sentencepiece model")) << bytes << ": " << text;
  }
}

// The tiny model with the character map of a normaliser: one block of a trie, then the strings.
std::string with_chars_map(std::uint32_t first_unit, const std::string& strings) {
  std::string map("\x00\x04\x00\x00", 4);  // 1024 bytes of trie, little-endian
  for (int byte = 0; byte < 4; ++byte) map += static_cast<char>(first_unit >> 8 * byte);
  map += std::string(1020, '\0') + strings;
  const auto field = [](char tag, const std::string& content) {  // sizes from 128 to 16383 take two bytes
    return std::string{tag, static_cast<char>(content.size() % 128 + 128), static_cast<char>(content.size() / 128)} +
           content;
  };
  return read_file(kData / "tiny-sp.model") + field('\x1a', field('\x12', map));
}

TEST(Tokenizer, DamagedCharacterMapOfASentencePieceModelIsRefused) {
  const std::string strings("abc\0", 4);
  const auto open = [](const std::string& model) {
    return tokenization::from_sentencepiece(model, {}, "t.model")->encode("the cat");
  };
  EXPECT_EQ(open(with_chars_map(0, strings)), tiny_sentencepiece()->encode("the cat"));
  const std::uint32_t outside = 256u << 10;              // children 256 units further, behind the only block
  const std::uint32_t leaf_outside = 0x100u | 1u << 10;  // a leaf at unit 1, which is below
  for (const std::string& model : {with_chars_map(outside, strings), with_chars_map(0, "abc"), with_chars_map(0, ""),
                                   with_chars_map(0, std::string("\xff\0", 2))}) {
    EXPECT_EQ(error_text([&] { open(model); }),
              "t.model: expected a normaliser with a character map, found a damaged one; fetch the file again");
  }
  std::string model = with_chars_map(leaf_outside, strings);
  EXPECT_EQ(error_text([&] { open(model); }), "no error");  // the leaf is string 0
  model[model.size() - strings.size() - 1020] = 4;          // string 4 lies behind the last
  EXPECT_NE(error_text([&] { open(model); }), "no error");
}

TEST(Tokenizer, OpenReadsTheFilesOfAFolder) {
  const TempFolder folder;
  EXPECT_NE(error_text([&] {
              Tokenizer::open(folder.path());
            }).find("expected tokenizer.json, tokenizer.model or vocab.json with merges.txt, found none of them"),
            std::string::npos);
  write_file(folder / "vocab.json", "{}");
  EXPECT_NE(error_text([&] { Tokenizer::open(folder.path()); }).find("found vocab.json alone"), std::string::npos);
  write_file(folder / "tokenizer.model", read_file(kData / "tiny-sp.model"));
  EXPECT_EQ(Tokenizer::open(folder.path())->vocab_size(), 400);
  write_file(folder / "tokenizer.json", read_file(kData / "qwen2-style.json"));
  write_file(folder / "special_tokens_map.json", R"({"eos_token": {"content": "<|im_start|>"}, "pad_token": null})");
  EXPECT_EQ(Tokenizer::open(folder.path())->eos(), 401);
  write_file(folder / "tokenizer_config.json",
             R"({"add_bos_token": true, "bos_token": "<mask>", "eos_token": "<end>"})");
  const auto tokenizer = Tokenizer::open(folder.path());
  EXPECT_EQ(tokenizer->bos(), 402);
  EXPECT_EQ(tokenizer->eos(), 403);
}

TEST(Tokenizer, AddedTokensOfTheConfigFilesAreFound) {
  TokenizerConfig config;
  tokenization::merge_config(config,
                             json::parse(R"({"added_tokens_decoder": {"900": {"content": "<a>", "lstrip": true}}})"),
                             "tokenizer_config.json");
  tokenization::merge_config(config, json::parse(R"({"<a>": 7, "<b>": 901})"), "added_tokens.json");
  const auto tokenizer = tiny_opt(config);
  EXPECT_EQ(tokenizer->encode("<b>  <a>"), (Ids{901, 900}));
  EXPECT_EQ(tokenizer->vocab_size(), 902);
  EXPECT_EQ(error_text([&] {
              tokenization::merge_config(config, json::parse(R"({"added_tokens_decoder": {"-1": {"content": "x"}}})"),
                                         "c");
            }).substr(0, 57),
            "c: added_tokens_decoder: expected a token id from 0 to 21");
}

struct RealTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;
  const std::vector<Case>& cases;
  std::size_t wiki_count;
  std::uint64_t wiki_hash;
};

TEST(Tokenizer, RealTokenizersEqualTheReferenceAndLoseNothing) {
  SKIP_WITHOUT_SHARED_DATA();
  const std::filesystem::path folder = shared_data() / "data/tokenizers";
  std::vector<RealTokenizer> all;
  all.push_back({Tokenizer::open(folder / "llama"), test::kLlamaJson, 335687, 0x798df6a29ce15af4u});
  all.push_back({tokenization::from_sentencepiece(read_file(folder / "llama/tokenizer.model"), {}, "tokenizer.model"),
                 test::kLlamaModel, 335687, 0x798df6a29ce15af4u});
  all.push_back({Tokenizer::open(folder / "opt"), test::kOpt, 286221, 0xe84f5ee36dcc4047u});
  all.push_back({Tokenizer::open(folder / "gpt2"), test::kGpt2, 286221, 0x71dab1e5b175239cu});
  const std::string wiki = read_file(shared_data() / "data/wiki.test.raw");
  for (const RealTokenizer& real : all) {
    expect_cases(*real.tokenizer, real.cases);
    const Ids ids = real.tokenizer->encode(wiki);
    EXPECT_EQ(ids.size(), real.wiki_count);
    EXPECT_EQ(fnv1a(ids), real.wiki_hash);
    EXPECT_TRUE(real.tokenizer->decode(ids) == wiki);
  }
  EXPECT_EQ(all[0].tokenizer->bos(), 1);
  EXPECT_EQ(all[1].tokenizer->bos(), 1);
  EXPECT_EQ(all[2].tokenizer->bos(), 2);
  EXPECT_EQ(all[3].tokenizer->bos(), std::nullopt);
}

// BOS and the tokens of each document, or of the whole text.
Ids token_stream(const Tokenizer& tokenizer, const std::filesystem::path& file) {
  Ids stream;
  const auto append = [&](const std::string& text) {
    stream.push_back(tokenizer.bos().value());
    const Ids ids = tokenizer.encode(text);
    stream.insert(stream.end(), ids.begin(), ids.end());
  };
  if (file.extension() == ".jsonl") {
    std::ifstream lines(file);
    for (std::string line; std::getline(lines, line);) append(json::parse(line)["text"].get<std::string>());
  } else {
    append(read_file(file));
  }
  return stream;
}

TEST(Tokenizer, ModelsEqualTheGoldenIds) {
  SKIP_WITHOUT_SHARED_DATA();
  for (const std::string model : {"llama-24m", "opt-24m", "stories-260k"}) {
    const auto tokenizer = Tokenizer::open(shared_data() / "models" / model);
    const json golden = json::parse(read_file(shared_data() / "golden" / (model + ".golden.json")));
    ASSERT_FALSE(golden["tokenizer"].empty());
    for (const json& sample : golden["tokenizer"]) {
      EXPECT_EQ(tokenizer->encode(sample["text"].get<std::string>()), sample["ids"].get<Ids>()) << model << sample;
    }
    ASSERT_FALSE(golden["ppl"].empty());
    for (const auto& [file, expected] : golden["ppl"].items()) {
      const Ids stream = token_stream(*tokenizer, shared_data() / "data" / file);
      EXPECT_EQ(stream.size(), expected["tokens"].get<std::size_t>()) << model << " " << file;
      const Ids first = expected["first_ids"].get<Ids>();
      ASSERT_GE(stream.size(), first.size());
      EXPECT_TRUE(std::equal(first.begin(), first.end(), stream.begin())) << model << " " << file;
    }
  }
}

}  // namespace
}  // namespace cbq
