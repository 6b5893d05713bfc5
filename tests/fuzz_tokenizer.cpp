// Damaged tokenizer files: every outcome is a tokenizer that works on a sample, or an Error{bad_input}.
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "models/tokenizer/kinds.h"
#include "tests/mutate.h"

namespace cbq {
namespace {

using namespace tokenization;
using nlohmann::json;
using test::mutate;
using test::Rng;

constexpr const char* kSample = "The caf\xc3\xa9's  12 <mask> dogs\xff\n\n</s>";

struct Tally {
  int working = 0, refused = 0;
};

// Opens, encodes and decodes; anything but success and Error{bad_input} fails the test with its case number.
template <class Open>
void run_case(Tally& tally, std::uint64_t seed, const Open& open) {
  try {
    const auto tokenizer = open();
    tokenizer->decode(tokenizer->encode(kSample));
    ++tally.working;
  } catch (const Error& error) {
    ++tally.refused;
    EXPECT_EQ(error.kind(), ErrorKind::bad_input) << "seed " << seed << ": " << error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "seed " << seed << ": " << error.what();
  }
}

template <class OpenSeed>
void run_cases(std::uint64_t first, std::uint64_t count, const OpenSeed& open) {
  Tally tally;
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t seed = first; seed < first + count; ++seed) run_case(tally, seed, [&] { return open(seed); });
  std::cout << tally.working << " working, " << tally.refused << " refused, "
            << std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() << " s\n";
  EXPECT_GT(tally.working, 0);
  EXPECT_GT(tally.refused, 0);
}

// A tokenizer.json of a hundred tokens with every component that the file's style uses.
std::string small_json(const std::string& name, std::size_t tokens) {
  json file = json::parse(read_file("tests/data/tokenizers/" + name));
  json vocab = json::object();
  for (const auto& [token, id] : file["model"]["vocab"].items()) {
    if (id.get<std::size_t>() < tokens) vocab[token] = id;
  }
  json merges = json::array();
  for (const json& merge : file["model"]["merges"]) {
    const auto left = merge.is_array() ? merge[0].get<std::string>() : "";
    const auto right = merge.is_array() ? merge[1].get<std::string>() : "";
    if (vocab.contains(left) && vocab.contains(right) && vocab.contains(left + right)) merges.push_back(merge);
  }
  file["model"]["vocab"] = vocab;
  file["model"]["merges"] = merges;
  return file.dump();
}

class FuzzTokenizerJson : public testing::TestWithParam<const char*> {};

TEST_P(FuzzTokenizerJson, NeverCrashes) {
  const std::string file = small_json(GetParam(), 290);
  run_cases(1, 6000, [&](std::uint64_t seed) {
    Rng rng(seed);
    return from_tokenizer_json(mutate(file, rng), {}, "tokenizer.json");
  });
}

INSTANTIATE_TEST_SUITE_P(Styles, FuzzTokenizerJson,
                         testing::Values("llama3-style.json", "qwen2-style.json", "llama-style.json"));

// The components alone: without the vocabulary, which takes most of a file, every damage hits one.
TEST(FuzzTokenizer, ComponentsNeverCrash) {
  json file = json::parse(R"({"added_tokens": [{"id": 9, "content": "<mask>", "lstrip": true, "special": true},
      {"id": 10, "content": "dogs", "single_word": true, "normalized": true, "rstrip": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Prepend", "prepend": "_"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "_"},
      {"type": "Replace", "pattern": {"Regex": "x*|[0-9]+"}, "content": "yy"}]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"},
       "behavior": "Isolated", "invert": false},
      {"type": "Split", "pattern": {"String": "e"}, "behavior": "Removed", "invert": true},
      {"type": "Digits", "individual_digits": true},
      {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": true},
      {"type": "ByteLevel", "add_prefix_space": true, "use_regex": true}]},
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<mask>"}}, {"Sequence": {"id": "A"}}],
      "special_tokens": {"<mask>": {"id": "<mask>", "ids": [9], "tokens": ["<mask>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "_", "prepend_scheme": "always"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}, {"type": "ByteLevel"}]},
    "model": {"type": "BPE", "unk_token": "u", "fuse_unk": true, "byte_fallback": true, "ignore_merges": true,
      "vocab": {"u": 0, "a": 1, "e": 2, "ae": 3, "_": 4, "1": 5, "_1": 6, "<0x41>": 7, "o": 8},
      "merges": [["a", "e"], "_ 1"]}})");
  const std::string text = file.dump();
  run_cases(1, 12000, [&](std::uint64_t seed) {
    Rng rng(seed);
    return from_tokenizer_json(mutate(text, rng), {}, "tokenizer.json");
  });
}

TEST(FuzzTokenizer, VocabAndMergesNeverCrash) {
  const std::string vocab = R"({"<s>": 0, "<pad>": 1, "</s>": 2, "T": 3, "h": 4, "e": 5, "he": 6, "The": 7, "Ġ": 8})";
  const std::string merges = "#version: 0.2\nh e\nT he\n";
  const std::string settings =
      R"({"add_bos_token": true, "bos_token": {"content": "</s>", "lstrip": true}, "eos_token": "</s>", "pad_token": null,
          "added_tokens_decoder": {"9": {"content": "<mask>", "lstrip": true, "rstrip": false, "special": true}}})";
  run_cases(1, 6000, [&](std::uint64_t seed) {
    Rng rng(seed);
    TokenizerConfig config;
    if (seed % 3 == 0) merge_config(config, parse_json_text(mutate(settings, rng), "c"), "tokenizer_config.json");
    return from_vocab_and_merges(seed % 3 == 1 ? mutate(vocab, rng) : vocab,
                                 seed % 3 == 2 ? mutate(merges, rng) : merges, config, "folder");
  });
}

TEST(FuzzTokenizer, SentencePieceModelNeverCrashes) {
  const std::string model = read_file("tests/data/tokenizers/tiny-sp.model");
  run_cases(1, 6000, [&](std::uint64_t seed) {
    Rng rng(seed);
    // Most damages break the nesting of lengths; single bytes changed in place get past it.
    std::string damaged = seed % 2 == 0 ? mutate(model, rng) : model;
    if (seed % 2 == 1) damaged[rng.below(model.size())] = static_cast<char>(rng.below(256));
    return from_sentencepiece(damaged, {}, "tokenizer.model");
  });
}

}  // namespace
}  // namespace cbq
