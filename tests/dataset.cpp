// Texts of files, streams of tokens, windows.
#include "models/dataset.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>

#include "core/files.h"
#include "core/rng.h"
#include "error_text.h"
#include "temp_folder.h"

namespace cbq {
namespace {

// One token a byte; 256 opens a text.
class ByteTokenizer final : public Tokenizer {
 public:
  explicit ByteTokenizer(VocabularyInfo info) : Tokenizer(info) {}
  std::vector<std::int32_t> encode(std::string_view text) const override {
    require_input(text != "bad", "the text is bad");
    std::vector<std::int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override { return {ids.begin(), ids.end()}; }
};

const ByteTokenizer kBytes({257, 256, std::nullopt});

void write_gzip(const std::filesystem::path& file, const std::string& contents) {
  const gzFile stream = gzopen(file.c_str(), "wb");
  gzwrite(stream, contents.data(), unsigned(contents.size()));
  gzclose(stream);
}

Texts read(const std::string& name, const std::string& contents) {
  const TempFolder folder;
  name.ends_with(".gz") ? write_gzip(folder / name, contents) : write_file(folder / name, contents);
  return read_texts(folder / name);
}

void expect_error(const std::string& name, const std::string& contents, const std::string& part) {
  const std::string text = error_text([&] { read(name, contents); });
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
  EXPECT_NE(text.find(name), std::string::npos) << text;
}

using Strings = std::vector<std::string>;

TEST(ReadTexts, PlainFilesAreOneText) {
  for (const char* name : {"a.txt", "a.raw", "a.txt.gz"}) {
    const Texts texts = read(name, " one\r\n\ntwo\n");
    EXPECT_EQ(texts.texts, Strings{" one\r\n\ntwo\n"}) << name;
    EXPECT_FALSE(texts.documents);
  }
}

TEST(ReadTexts, JsonFilesAreOneTextAnEntry) {
  const Strings expected = {"a\nb", "", "\xc3\xa9"};
  const std::string lines = "{\"text\": \"a\\nb\", \"url\": 3}\r\n\n{\"text\":\"\"}\n\"\\u00e9\"";
  const std::string array = "\n[{\"text\": \"a\\nb\"}, {\"text\": \"\"},\n \"\xc3\xa9\"]\n";
  for (const char* name : {"a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"}) {
    const Texts texts = read(name, lines);
    EXPECT_EQ(texts.texts, expected) << name;
    EXPECT_TRUE(texts.documents);
  }
  EXPECT_EQ(read("a.json", array).texts, expected);
  EXPECT_EQ(read("a.json.gz", array).texts, expected);
}

TEST(ReadTexts, ErrorsNameFileAndLine) {
  expect_error("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": 3}\n", "line 3: text: expected a string");
  expect_error("a.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"\"}\n", "line 2: expected the key \"text\"");
  expect_error("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"\n", "line 2");
  expect_error("a.jsonl", "{\"text\": \"\xff\"}\n", "line 1");
  expect_error("a.jsonl", "[1]\n", "line 1: expected an object");
  expect_error("a.jsonl", std::string(100000, '['), "line 1");
  expect_error("a.json", "[{\"text\": \"a\"}, 3]", "entry 2: expected an object");
  expect_error("a.json", "[]", "empty list");
  expect_error("a.json", "[\"a\"", "a.json");
  expect_error("a.txt", "", "empty");
  expect_error("a.jsonl", "\n \n", "empty");
  expect_error("a.parquet", "x", ".jsonl");
  expect_error("a.gz", "x", ".jsonl");
  EXPECT_NE(error_text([] { read_texts("absent.txt"); }).find("absent.txt"), std::string::npos);
  EXPECT_NE(error_text([] { read_texts("absent.txt.gz"); }).find("absent.txt.gz"), std::string::npos);
}

TEST(ReadTexts, RefusesDamagedGzipFiles) {
  const TempFolder folder;
  std::string contents;
  Rng rng(1);
  for (int i = 0; i < 100000; ++i) contents += char('a' + rng.below(26));
  write_gzip(folder / "a.txt.gz", contents);
  const std::string whole = read_file(folder / "a.txt.gz");
  write_file(folder / "cut.txt.gz", whole.substr(0, whole.size() / 2));
  std::string flipped = whole;
  flipped[flipped.size() / 2] = char(flipped[flipped.size() / 2] ^ 1);
  write_file(folder / "flipped.txt.gz", flipped);
  for (const char* name : {"cut.txt.gz", "flipped.txt.gz"})
    EXPECT_NE(error_text([&] { read_texts(folder / name); }).find("cannot be unpacked"), std::string::npos) << name;
}

TEST(TokenStream, PutsBosBeforeDocumentsOrOnce) {
  EXPECT_EQ(token_stream(kBytes, {{"ab", "", "c"}, true}, 257),
            (std::vector<std::int32_t>{256, 'a', 'b', 256, 256, 'c'}));
  EXPECT_EQ(token_stream(kBytes, {{"ab"}, false}, 300), (std::vector<std::int32_t>{256, 'a', 'b'}));
  const ByteTokenizer without_bos({256, std::nullopt, std::nullopt});
  EXPECT_EQ(token_stream(without_bos, {{"ab", "c"}, true}, 256), (std::vector<std::int32_t>{'a', 'b', 'c'}));
}

TEST(TokenStream, RefusesATokenizerOfAnotherModel) {
  EXPECT_NE(error_text([] { token_stream(kBytes, {{"ab"}, false}, 256); }).find("vocab_size"), std::string::npos);
  const ByteTokenizer lies({100, std::nullopt, std::nullopt});
  EXPECT_NE(error_text([&] { token_stream(lies, {{"~"}, false}, 100); }).find("id 126"), std::string::npos);
}

TEST(TokenStream, ErrorsOfTheTokenizerComeThrough) {
  Texts texts{Strings(1000, "good"), true};
  texts.texts[777] = "bad";
  EXPECT_EQ(error_text([&] { token_stream(kBytes, texts, 257); }), "the text is bad");
}

std::vector<std::int32_t> counting(std::int32_t count) {
  std::vector<std::int32_t> stream;
  for (std::int32_t i = 0; i < count; ++i) stream.push_back(i);
  return stream;
}

TEST(Windows, CutTheStreamAndDropTheTail) {
  const auto windows = eval_windows(counting(11), 4, 0, "f");
  EXPECT_EQ(windows, (std::vector<std::vector<std::int32_t>>{{0, 1, 2, 3}, {4, 5, 6, 7}}));
  EXPECT_EQ(eval_windows(counting(11), 4, 1, "f").size(), 1u);
  EXPECT_EQ(eval_windows(counting(4), 4, 9, "f").size(), 1u);
  EXPECT_NE(error_text([] { eval_windows(counting(3), 4, 0, "f"); }).find("f: 3 tokens"), std::string::npos);
  EXPECT_NE(error_text([] { eval_windows(counting(3), 1, 0, "f"); }).find("seqlen"), std::string::npos);
}

TEST(Windows, SamplesAreThoseOfPythonsRandom) {
  // random.seed(2); [random.randint(0, 356316) for _ in range(3)] of CPython
  const auto windows = calibration_windows(counting(356316 + 2048 + 1), 3, 2048, 2, "f");
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_EQ(windows[0][0], 29649);
  EXPECT_EQ(windows[1][0], 48016);
  EXPECT_EQ(windows[2][0], 44497);
  EXPECT_EQ(windows[2].back(), 44497 + 2047);
  EXPECT_EQ(windows[2].size(), 2048u);
  EXPECT_EQ(calibration_windows(counting(5), 2, 4, 0, "f").size(), 2u);
  EXPECT_NE(error_text([] { calibration_windows(counting(4), 2, 4, 0, "f"); }).find("found 4"), std::string::npos);
  EXPECT_NE(error_text([] { calibration_windows(counting(9), 0, 4, 0, "f"); }).find("nsamples"), std::string::npos);
}

}  // namespace
}  // namespace cbq
