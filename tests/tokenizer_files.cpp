// Folders of tokenizer files, and the tokenizers of real models against golden ids.
#include <fstream>

#include "models/tokenizer/tokenizer.h"
#include "tests/error_text.h"
#include "tests/shared_data.h"
#include "tests/temp_folder.h"
#include "tests/tiny_tokenizers.h"

namespace cbq {
namespace {

using namespace test;

TEST(TokenizerFiles, OpenReadsTheFilesOfAFolder) {
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

TEST(TokenizerFiles, AddedTokensOfTheConfigFilesAreFound) {
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

std::uint64_t fnv1a(const Ids& ids) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const std::int32_t id : ids) {
    for (int byte = 0; byte < 4; ++byte)
      hash = (hash ^ ((static_cast<std::uint32_t>(id) >> 8 * byte) & 0xff)) * 0x100000001b3u;
  }
  return hash;
}

struct RealTokenizer {
  std::unique_ptr<Tokenizer> tokenizer;
  const std::vector<Case>& cases;
  std::size_t wiki_count;
  std::uint64_t wiki_hash;
};

TEST(TokenizerFiles, RealTokenizersEqualTheReferenceAndLoseNothing) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
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

TEST(TokenizerFiles, ModelsEqualTheGoldenIds) {
  CBQ_SKIP_WITHOUT_SHARED_DATA();
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
