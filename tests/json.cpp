#include "core/json.h"

#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/error_text.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

void expect_error(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "instead: " << text;
}

TEST(Json, ReadsValues) {
  const auto value =
      parse_json_text(" {\"a\": [1, -2, 2.5, \"x\\u00e9\", true, null, [], {}], \"b\": {\"a\": 1}} ", "f");
  EXPECT_EQ(value.dump(), "{\"a\":[1,-2,2.5,\"xé\",true,null,[],{}],\"b\":{\"a\":1}}");
  EXPECT_EQ(parse_json_text("7", "f"), 7);
  EXPECT_EQ(parse_json_text("[[1,[2]],[[3],4]]", "f").dump(), "[[1,[2]],[[3],4]]");
  EXPECT_EQ(parse_json_text("18446744073709551615", "f").get<std::uint64_t>(), 18446744073709551615u);
}

TEST(Json, NamesTheLineAndColumn) {
  const auto text_of = [](std::string_view text) { return error_text([&] { parse_json_text(text, "f.json"); }); };
  EXPECT_TRUE(text_of("{\"a\": 1,\n \"b\": x}").starts_with("f.json:2:7: syntax error"))
      << text_of("{\"a\": 1,\n \"b\": x}");
  EXPECT_TRUE(text_of("").starts_with("f.json:1:1: "));
  EXPECT_TRUE(text_of("[1, 2").starts_with("f.json:1:")) << text_of("[1, 2");
  EXPECT_TRUE(text_of("[1] 2").starts_with("f.json:1:5: ")) << text_of("[1] 2");
  EXPECT_EQ(text_of("{\"a\": 1,\n  \"b\": 2,\n  \"a\": 3}"), "f.json:3:5: expected each key once, found \"a\" again");
  EXPECT_EQ(text_of("{\"x\": {\"a\": 1, \"a\": 1}}"), "f.json:1:18: expected each key once, found \"a\" again");
  for (const char* bad : {"NaN", "[Infinity]", "[-Infinity]", "1e999", "[1,]", "{\"a\":1,}", "{'a':1}", "// c\n1", "01",
                          "\"\x80\"", "\"\\ud800\"", "\"a\nb\"", "{\"a\"}", "{1:2}", "+1", "tru", "\x1b[31m"})
    EXPECT_TRUE(text_of(bad).starts_with("f.json:")) << bad << " gives " << text_of(bad);
  EXPECT_LT(text_of(concat("[\"", std::string(10'000'000, 'x'), "\"x")).size(), 400u);
  EXPECT_LT(text_of(concat("[\"", std::string(1'000'000, 'x'))).size(), 400u);
}

TEST(Json, LimitsNesting) {
  const auto text_of = [](const std::string& text) { return error_text([&] { parse_json_text(text, "f"); }); };
  const auto nested = [](int depth) {
    return std::string(std::size_t(depth), '[') + std::string(std::size_t(depth), ']');
  };
  EXPECT_EQ(text_of(nested(kMaxJsonDepth)), "no error");
  expect_error(text_of(nested(kMaxJsonDepth + 1)), "f:1:65: expected at most 64 levels");
  expect_error(text_of(std::string(5'000'000, '[')), "f:1:65: expected at most 64 levels");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  expect_error(text_of(objects), "expected at most 64 levels");
}

TEST(Json, ReadsFiles) {
  const TempFolder folder;
  write_file(folder / "a.json", "{\"a\": 1}");
  EXPECT_EQ(parse_json_file(folder / "a.json")["a"], 1);
  expect_error(error_text([&] { parse_json_file(folder / "a.json", 3); }), "a.json: at most 3 bytes");
  write_file(folder / "a.json", "{\"a\"\n: }");
  expect_error(error_text([&] { parse_json_file(folder / "a.json"); }), (folder / "a.json").string() + ":2:3: ");
}

TEST(Json, QuotesHostileText) {
  EXPECT_EQ(quoted_text("model.norm"), "\"model.norm\"");
  EXPECT_EQ(quoted_text("a\n\"b\x1b[31m"), "\"a\\n\\\"b\\u001b[31m\"");
  EXPECT_EQ(quoted_text("\xff"), "\"\\ufffd\"");
  EXPECT_LT(quoted_text(std::string(1'000'000, 'x')).size(), 200u);
}

}  // namespace
}  // namespace cbq
