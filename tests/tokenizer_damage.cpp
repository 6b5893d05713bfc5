// Damaged and hostile tokenizer files give one clear error.
#include "core/error.h"
#include "tests/error_text.h"
#include "tests/tiny_tokenizers.h"

namespace cbq {
namespace {

using namespace test;

// A change of the Qwen2-like file, and how its error starts.
struct BadFile {
  const char* pointer;
  json value;
  const char* error;
};

TEST(TokenizerDamage, DamagedTokenizerJsonGivesOneClearError) {
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

TEST(TokenizerDamage, EndlessBacktrackingIsAnError) {
  json file = tiny_json("qwen2-style.json");
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$";
  const auto tokenizer = from_json(file);
  EXPECT_NE(error_text([&] { tokenizer->encode(std::string(60, 'a') + "b"); }).find("matches in bounded time"),
            std::string::npos);
}

TEST(TokenizerDamage, GrowthOfTheTextIsBounded) {
  json file = tiny_json("qwen2-style.json");
  json replace = json::parse(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaaaaaaaa"})");
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", std::vector<json>(40, replace)}};
  EXPECT_NE(error_text([&] { from_json(file)->encode("aaaa"); }).find("let a text grow to at most"), std::string::npos);
}

TEST(TokenizerDamage, DamagedVocabAndMergesGiveOneClearError) {
  EXPECT_EQ(error_text([] { tiny_opt({}, "zz q\n"); }).substr(0, 28), "folder/merges.txt: merge 144");
  EXPECT_EQ(error_text([] { tiny_opt({}, "a b c\n"); }).substr(0, 22), "folder/merges.txt:146:");
  EXPECT_EQ(error_text([] { tiny_opt({}, "\xff a\n"); }),
            "folder/merges.txt: expected UTF-8, found other bytes; repair the file");
}

TEST(TokenizerDamage, DamagedSentencePieceModelGivesOneClearError) {
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

TEST(TokenizerDamage, DamagedCharacterMapOfASentencePieceModelIsRefused) {
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

}  // namespace
}  // namespace cbq
