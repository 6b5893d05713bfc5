#include "core/safetensors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "core/json.h"
#include "tests/error_text.h"
#include "tests/safetensors_bytes.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}
std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors_header(bytes_of(file), "f");
}

// What is said of a file with this header and so many bytes of data.
std::string complaint(const std::string& header, std::size_t data_bytes = 4) {
  return error_text([&] { parse(safetensors_bytes(header, std::string(data_bytes, 'x'))); });
}

TEST(SafetensorsHeader, ReadsWhatIsThere) {
  const std::string file = valid_safetensors();
  const SafetensorsHeader header = parse(file);
  EXPECT_EQ(header.tensors.size(), 10u);
  EXPECT_EQ(header.metadata, (std::map<std::string, std::string>{{"format", "pt"}, {"step", "12"}}));
  const TensorInfo& half = header.tensors.at("half");
  EXPECT_EQ(half.dtype, DType::f16);
  EXPECT_EQ(half.shape, (Shape{2, 3}));
  EXPECT_EQ(half.bytes, 12);
  EXPECT_EQ(file.substr(std::size_t(half.begin), 12), "EFGHIJKLMNOP");
  EXPECT_EQ(header.tensors.at("wide").shape, (Shape{1, 2, 1, 1}));
  EXPECT_EQ(header.tensors.at("scalar").shape, Shape{});
  EXPECT_EQ(header.tensors.at("scalar").shape.count(), 1);
  EXPECT_EQ(header.tensors.at("none").bytes, 0);
  EXPECT_EQ(header.tensors.at("mask").dtype, DType::u8);
  EXPECT_EQ(header.tensors.at("brain").dtype, DType::bf16);
  EXPECT_TRUE(parse(safetensors_bytes("{}", "")).tensors.empty());
}

TEST(SafetensorsHeader, RefusesBadLengths) {
  const auto of = [](const std::string& file) { return error_text([&] { parse(file); }); };
  EXPECT_EQ(of("1234567"), "f: expected a safetensors file of at least 8 bytes, found 7 bytes");
  EXPECT_EQ(of(""), "f: expected a safetensors file of at least 8 bytes, found 0 bytes");
  EXPECT_EQ(of(std::string(20, '\0')), "f: expected a header, found header length 0");
  EXPECT_EQ(of(std::string("\x0d\0\0\0\0\0\0\0", 8) + std::string(12, ' ')),
            "f: expected a header of 13 bytes, found 12; the file may be cut off, fetch or export it again");
  for (const char* length : {"\x01\xe1\xf5\x05\0\0\0\0", "\0\0\0\0\0\0\0\x80", "\xff\xff\xff\xff\xff\xff\xff\xff"})
    EXPECT_NE(of(std::string(length, 8) + "{}").find("expected a header of at most 100000000 bytes"),
              std::string::npos);
}

struct Complaint {
  const char* header;
  const char* text;
  std::size_t data_bytes = 4;
};

class BadHeader : public testing::TestWithParam<Complaint> {};

TEST_P(BadHeader, IsRefusedWithItsReason) {
  const std::string text = complaint(GetParam().header, GetParam().data_bytes);
  EXPECT_TRUE(text.starts_with("f")) << text;
  EXPECT_NE(text.find(GetParam().text), std::string::npos) << "expected: " << GetParam().text << "\ninstead: " << text;
}

const Complaint kComplaints[] = {
    {"[]", "f: header: expected an object, found array"},
    {"{", "f (header):1:"},
    {"{}x", "f (header):1:3: "},
    {R"({"a":1})", "f: tensor \"a\": expected an object, found number"},
    {R"({"a":{}})", "f: tensor \"a\": expected the key \"dtype\", not found"},
    {R"({"a":{"dtype":"F32"}})", "tensor \"a\": expected the key \"shape\""},
    {R"({"a":{"dtype":"F32","shape":[1]}})", "tensor \"a\": expected the key \"data_offsets\""},
    {R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", "dtype: expected a string, found number"},
    {R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", "or BOOL, found \"F8_E4M3\"; convert"},
    {R"({"a":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}})", "tensor \"a\": dtype: expected"},
    {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", "shape: expected an array, found number"},
    {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})", "shape: expected at most 4 numbers, found 5"},
    {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", "from 0 to 2^63 - 1, found \"-1\""},
    {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", "from 0 to 2^63 - 1, found \"1.0\""},
    {R"({"a":{"dtype":"F32","shape":["1"],"data_offsets":[0,4]}})", "shape: expected whole numbers"},
    {R"({"a":{"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,4]}})", "shape: expected whole numbers"},
    {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}})",
     "shape: expected a size below 2^63"},
    {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", "expected a size below 2^63", 0},
    {R"({"a":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0]}})", "expected a size below 2^63", 0},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", "data_offsets: expected 2 numbers, found 1"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", "data_offsets: expected 2 numbers, found 3"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", "data_offsets: expected whole numbers"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", "expected begin <= end, found begin 4 and end 0"},
    {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
     "should end at byte 8, the file holds 4 bytes of data"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,3]}})", "f32 of shape (1) takes 4 bytes, found 3"},
    {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
     "expected each key once, found \"a\" again"},
    {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})",
     "f: tensor \"b\": overlaps another tensor: expected begin 2, found 1"},
    {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
     "f: tensor \"b\": leaves a hole before it: expected begin 1, found 2"},
    {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", "leaves a hole before it: expected begin 0, found 1"},
    {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
     "f: expected 3 bytes of data, found 1 more that belong"},
    {"{}", "f: expected 0 bytes of data, found 4 more"},
    {R"({"__metadata__":[]})", "__metadata__: expected an object, found array", 0},
    {R"({"__metadata__":{"a":1}})", "__metadata__: \"a\": expected a string, found number", 0},
    {"{\"a\\n\\u001b[31m\":1}", "tensor \"a\\n\\u001b[31m\": expected an object"},
};
INSTANTIATE_TEST_SUITE_P(SafetensorsHeader, BadHeader, testing::ValuesIn(kComplaints));

TEST(SafetensorsHeader, RefusesNestingBombs) {
  EXPECT_NE(complaint("{\"a\":" + std::string(1'000'000, '[')).find("levels of nesting"), std::string::npos);
}

TEST(SafetensorsWriter, WritesWhatTheReaderReads) {
  const TempFolder folder;
  SafetensorsWriter writer(folder / "a.safetensors", {{"odd", DType::i8, {3}},
                                                      {"none", DType::f32, {0, 5}},
                                                      {"wide", DType::f32, {2, 2}},
                                                      {"scalar", DType::bf16, {}},
                                                      {"last", DType::i64, {0}}});
  writer.write("odd", bytes_of("abc"));
  writer.write("none", {});
  writer.append(bytes_of("0123456"));
  writer.append({});
  writer.append(bytes_of("789abcdef"));
  writer.write("scalar", bytes_of("xy"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.safetensors"));
  writer.finish();

  const SafetensorsFile file(folder / "a.safetensors");
  EXPECT_EQ(folder.entries(), 1);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  ASSERT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(text_of(file.bytes("odd")), "abc");
  EXPECT_EQ(text_of(file.bytes("wide")), "0123456789abcdef");
  EXPECT_EQ(text_of(file.bytes("scalar")), "xy");
  EXPECT_EQ(file.info("wide").shape, (Shape{2, 2}));
  EXPECT_EQ(file.info("wide").begin % 64, 0);  // the widest one opens the data
  for (const auto& [name, info] : file.tensors()) EXPECT_EQ(info.begin % size_of(info.dtype), 0) << name;
  file.release("wide");
  EXPECT_EQ(text_of(file.bytes("wide")), "0123456789abcdef");
  EXPECT_TRUE(file.contains("none"));
  EXPECT_FALSE(file.contains("nothing"));
  EXPECT_EQ(error_text([&] { file.bytes("nothing"); }),
            (folder / "a.safetensors").string() + ": expected a tensor \"nothing\", not found among 5 tensors");
}

TEST(SafetensorsWriter, WritesEmptyFiles) {
  const TempFolder folder;
  SafetensorsWriter(folder / "a", {}).finish();
  EXPECT_TRUE(SafetensorsFile(folder / "a").tensors().empty());
}

TEST(SafetensorsWriter, RefusesWhatWasNotDeclared) {
  const TempFolder folder;
  const std::vector<TensorSpec> specs = {{"a", DType::u8, {2}}, {"b", DType::u8, {2}}};
  const auto expect = [](const auto& action, const std::string& part) {
    const std::string text = error_text(action, ErrorKind::failure);
    EXPECT_NE(text.find(part), std::string::npos) << "instead: " << text;
  };
  SafetensorsWriter writer(folder / "f", specs);
  expect([&] { writer.write("b", bytes_of("12")); }, "f: expected \"a\", found tensor \"b\"");
  expect([&] { writer.write("a", bytes_of("123")); }, "tensor \"a\": expected 2 bytes, found 3");
  expect([&] { writer.append(bytes_of("123")); }, "tensor \"a\": expected 2 more bytes, found 3");
  writer.append(bytes_of("1"));
  expect([&] { writer.write("a", bytes_of("12")); }, "expected \"a\", found tensor \"a\"");
  writer.append(bytes_of("2"));
  expect([&] { writer.finish(); }, "expected all 2 tensors before finish, found 1 whole ones");
  writer.write("b", bytes_of("34"));
  expect([&] { writer.write("b", bytes_of("34")); }, "expected no more tensors, found tensor \"b\"");
  expect([&] { writer.append(bytes_of("3")); }, "expected no more bytes, found 1");
  expect([&] { SafetensorsWriter(folder / "g", {{"a", DType::u8, {}}, {"a", DType::u8, {}}}); }, "the name is taken");
  expect([&] { SafetensorsWriter(folder / "g", {{"__metadata__", DType::u8, {}}}); }, "the name is taken");
  expect([&] { SafetensorsWriter(folder / "g", {{"\xff", DType::u8, {}}}); }, "must be UTF-8");
}

TEST(SafetensorsWriter, LeavesNothingWithoutFinish) {
  const TempFolder folder;
  {
    SafetensorsWriter writer(folder / "a", {{"a", DType::u8, {2}}});
    writer.write("a", bytes_of("12"));
  }
  EXPECT_EQ(folder.entries(), 0);
}

// The size limit of the process stands in for the full disk; tests/files.cpp has the text for a real one.
TEST(SafetensorsWriter, FailsBeforeTheWorkWhenTheDiskIsTooSmall) {
  const TempFolder folder;
  rlimit old_limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old_limit;
  small.rlim_cur = 1'000'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string data(2'000'000, 'x');
  const std::string text = error_text(
      [&] {
        SafetensorsWriter writer(folder / "a", {{"a", DType::u8, {2'000'000}}});
        writer.write("a", bytes_of(data));
        writer.finish();
      },
      ErrorKind::failure);
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_NE(text.find("File too large; raise the file size limit"), std::string::npos) << text;
  EXPECT_EQ(folder.entries(), 0);
}

TEST(SafetensorsFile, OpensPublishedModels) {
  const char* folder = std::getenv("CBQ_TEST_DATA");
  const std::filesystem::path data = folder ? folder : "../shared";
  const auto model = data / "models" / "llama-24m";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " does not exist; set CBQ_TEST_DATA";
  const auto index = parse_json_file(model / "model.safetensors.index.json");
  std::int64_t total = 0;
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(model)) {
    if (entry.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(entry.path());
    for (const auto& [name, info] : file.tensors()) {
      EXPECT_EQ(index.at("weight_map").at(name), entry.path().filename().string());
      EXPECT_EQ(std::ssize(file.bytes(name)), info.bytes);
      total += info.bytes;
      ++count;
    }
  }
  EXPECT_EQ(count, index.at("weight_map").size());
  EXPECT_EQ(total, index.at("metadata").at("total_size").get<std::int64_t>());
}

}  // namespace
}  // namespace cbq
