// GGUF files: blocks against the formulas of the format, files written and read again, and files that are refused.
#include "core/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/error_text.h"
#include "tests/gguf_bytes.h"
#include "tests/temp_folder.h"

namespace cbq {
namespace {

// ---- blocks

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(std::byte(value));
  return bytes;
}

// d = 0.5 (f16 0x3800), m = -3 (f16 0xc200), codes by hand.
TEST(GgmlBlocks, HaveTheLayoutOfTheFormat) {
  GgmlBlock block;
  block.d = 0x3800;
  block.m = 0xc200;
  for (int i = 0; i < 32; ++i) block.codes[std::size_t(i)] = std::int8_t(i < 16 ? i : 31 - i);  // 0 .. 15, 15 .. 0
  std::vector<std::byte> bytes(18);
  pack_block(GgmlType::q4_0, block, bytes);
  EXPECT_EQ(bytes, bytes_of({0x00, 0x38, 0xf0, 0xe1, 0xd2, 0xc3, 0xb4, 0xa5, 0x96, 0x87, 0x78, 0x69, 0x5a, 0x4b, 0x3c,
                             0x2d, 0x1e, 0x0f}));
  std::vector<float> values(32);
  dequantise_blocks(GgmlType::q4_0, bytes, values);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(values[std::size_t(i)], 0.5f * float((i < 16 ? i : 31 - i) - 8)) << i;

  bytes.resize(20);
  pack_block(GgmlType::q4_1, block, bytes);
  EXPECT_EQ(std::vector(bytes.begin(), bytes.begin() + 6), bytes_of({0x00, 0x38, 0x00, 0xc2, 0xf0, 0xe1}));
  dequantise_blocks(GgmlType::q4_1, bytes, values);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(values[std::size_t(i)], 0.5f * float(i < 16 ? i : 31 - i) - 3) << i;

  for (int i = 0; i < 32; ++i) block.codes[std::size_t(i)] = std::int8_t(i == 0 ? -128 : 8 * i - 121);
  bytes.resize(34);
  pack_block(GgmlType::q8_0, block, bytes);
  EXPECT_EQ(std::vector(bytes.begin(), bytes.begin() + 4), bytes_of({0x00, 0x38, 0x80, 0x8f}));
  EXPECT_EQ(bytes[33], std::byte{127});
  dequantise_blocks(GgmlType::q8_0, bytes, values);
  for (int i = 0; i < 32; ++i) EXPECT_EQ(values[std::size_t(i)], i == 0 ? -64 : 0.5f * float(8 * i - 121)) << i;
}

TEST(GgmlBlocks, UnpackInvertsPack) {
  for (const GgmlType type : {GgmlType::q4_0, GgmlType::q4_1, GgmlType::q8_0}) {
    GgmlBlock block;
    block.d = 0x1234;
    if (type == GgmlType::q4_1) block.m = 0x4321;
    for (int i = 0; i < 32; ++i)
      block.codes[std::size_t(i)] = std::int8_t(type == GgmlType::q8_0 ? 5 * i - 80 : i % 16);
    std::vector<std::byte> bytes(static_cast<std::size_t>(block_bytes(type)));
    pack_block(type, block, bytes);
    const GgmlBlock found = unpack_block(type, bytes);
    EXPECT_EQ(found.d, block.d);
    EXPECT_EQ(found.m, block.m);
    EXPECT_EQ(found.codes, block.codes) << type;
  }
}

TEST(GgmlBlocks, SizesOfTensors) {
  const auto bytes = [](GgmlType type, std::vector<std::int64_t> sizes) { return byte_count(type, sizes); };
  EXPECT_EQ(bytes(GgmlType::q4_0, {3, 64}), 3 * 2 * 18);
  EXPECT_EQ(bytes(GgmlType::q4_1, {64}), 2 * 20);
  EXPECT_EQ(bytes(GgmlType::q8_0, {2, 1, 32}), 2 * 34);
  EXPECT_EQ(bytes(GgmlType::f16, {2, 3}), 12);
  EXPECT_EQ(bytes(GgmlType::f32, {}), 4);
  EXPECT_EQ(bytes(GgmlType::q4_0, {3, 48}), std::nullopt);
  EXPECT_EQ(bytes(GgmlType::q4_0, {}), std::nullopt);
  EXPECT_EQ(bytes(GgmlType::f32, {INT64_MAX, 1}), std::nullopt);
  EXPECT_EQ(bytes(GgmlType::f32, {INT64_MAX, 0, 7}), std::nullopt);
}

// ---- files

GgufHeader parse(const std::string& file) {
  return parse_gguf_header(std::as_bytes(std::span(file)), "f");
}
std::string parse_error(const GgufParts& parts) {
  return error_text([&] { parse(parts.bytes()); });
}

TEST(Gguf, ReadsEveryTypeOfValueAndTensor) {
  const GgufHeader header = parse(valid_gguf().bytes());
  EXPECT_EQ(header.metadata.size(), 15u);
  const auto integer = [&](const char* key) { return std::get<std::int64_t>(header.metadata.at(key)); };
  EXPECT_EQ(integer("u8"), 200);
  EXPECT_EQ(integer("i8"), -5);
  EXPECT_EQ(integer("u16"), 60000);
  EXPECT_EQ(integer("i16"), -300);
  EXPECT_EQ(integer("u32"), 4'000'000'000);
  EXPECT_EQ(integer("i32"), -7);
  EXPECT_EQ(integer("u64"), std::int64_t(1) << 40);
  EXPECT_EQ(integer("i64"), -(std::int64_t(1) << 40));
  EXPECT_EQ(std::get<double>(header.metadata.at("f32")), 0.5);
  EXPECT_EQ(std::get<double>(header.metadata.at("f64")), 0.1);
  EXPECT_TRUE(std::get<bool>(header.metadata.at("yes")));
  EXPECT_EQ(std::get<std::string>(header.metadata.at("text")), "some text");
  EXPECT_EQ(std::get<std::vector<std::string>>(header.metadata.at("texts")), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(std::get<std::vector<double>>(header.metadata.at("floats")), (std::vector<double>{1.5}));
  EXPECT_EQ(std::get<std::vector<std::int64_t>>(header.metadata.at("bytes")), (std::vector<std::int64_t>{1, 2, 255}));
  EXPECT_EQ(header.tensors.at("scalar").shape, Shape{});
  EXPECT_EQ(header.tensors.at("half").shape, (Shape{2, 3}));
  EXPECT_EQ(header.tensors.at("q8_0").shape, (Shape{1, 2, 1, 32}));
  EXPECT_EQ(header.tensors.at("q8_0").bytes, 68);
  EXPECT_EQ(header.tensors.at("none").bytes, 0);
  EXPECT_EQ(header.tensors.at("brain").type, GgmlType::bf16);
}

TEST(Gguf, WrittenFilesAreReadBack) {
  const TempFolder folder;
  GgufMetadata metadata;
  metadata.add("text", "t");
  metadata.add("count", std::uint32_t{3});
  metadata.add("eps", 1e-5f);
  metadata.add("flag", true);
  metadata.add("ids", std::span<const std::int32_t>(std::vector<std::int32_t>{1, -2}));
  metadata.add("map", std::span<const std::uint8_t>(std::vector<std::uint8_t>{0, 255}));
  metadata.add("scores", std::span<const float>(std::vector<float>{-1, 0.5f}));
  metadata.add("tokens", std::span<const std::string>(std::vector<std::string>{"<s>", ""}));
  GgufWriter writer(folder / "m.gguf", metadata, {{"a", GgmlType::f32, {3}}, {"b", GgmlType::q4_0, {2, 32}}});
  EXPECT_NE(error_text([&] { writer.write("b", {}); }, ErrorKind::failure), "no error");
  writer.write("a", std::vector<std::byte>(12, std::byte{1}));
  EXPECT_NE(error_text([&] { writer.finish(); }, ErrorKind::failure), "no error");
  writer.write("b", std::vector<std::byte>(36, std::byte{2}));
  EXPECT_FALSE(std::filesystem::exists(folder / "m.gguf"));
  writer.finish();

  const GgufFile file(folder / "m.gguf");
  EXPECT_EQ(std::filesystem::file_size(folder / "m.gguf") % 32, 0u);
  EXPECT_EQ(*file.find<std::string>("text"), "t");
  EXPECT_EQ(*file.find<std::int64_t>("count"), 3);
  EXPECT_EQ(*file.find<double>("eps"), double(1e-5f));
  EXPECT_TRUE(*file.find<bool>("flag"));
  EXPECT_EQ(*file.find<std::vector<std::int64_t>>("ids"), (std::vector<std::int64_t>{1, -2}));
  EXPECT_EQ(*file.find<std::vector<std::int64_t>>("map"), (std::vector<std::int64_t>{0, 255}));
  EXPECT_EQ(*file.find<std::vector<double>>("scores"), (std::vector<double>{-1, 0.5}));
  EXPECT_EQ(*file.find<std::vector<std::string>>("tokens"), (std::vector<std::string>{"<s>", ""}));
  EXPECT_EQ(file.find<bool>("absent"), nullptr);
  EXPECT_EQ(error_text([&] { file.find<bool>("eps"); }),
            (folder / "m.gguf").string() + ": eps: found a value of another type than the key has");
  EXPECT_EQ(file.tensor("a").begin % 32, 0);
  EXPECT_EQ(file.tensor("b").begin, file.tensor("a").begin + 32);
  EXPECT_EQ(std::ranges::count(file.bytes("b"), std::byte{2}), 36);
  EXPECT_NE(error_text([&] { file.bytes("c"); }), "no error");
}

TEST(Gguf, TheLastPaddingMayBeMissing) {
  GgufParts parts;
  parts.tensor_count = 1;
  parts.tensors = gguf_tensor("a", {3}, 0, 0);
  parts.data = std::string(12, 'x');
  EXPECT_EQ(parse(parts.bytes()).tensors.at("a").bytes, 12);
  parts.data.resize(32);
  EXPECT_EQ(parse(parts.bytes()).tensors.at("a").bytes, 12);
  parts.data.resize(33);
  EXPECT_EQ(parse_error(parts), "f: expected 12 bytes of data, found 33, of which some belong to no tensor");
  parts.data.resize(11);
  EXPECT_EQ(parse_error(parts),
            "f: tensor \"a\": expected 12 bytes of data, found fewer; the file may be cut off, fetch it again");
}

TEST(Gguf, HostileHeadersAreRefused) {
  EXPECT_EQ(error_text([] { parse("GGU"); }), "f: expected a GGUF file, found another; fetch it again");
  EXPECT_EQ(error_text([] { parse("GGUF\3\0"); }),
            "f: version: expected 4 bytes, found 1; the file may be cut off, fetch it again");
  GgufParts parts;
  parts.version = 1;
  EXPECT_EQ(parse_error(parts), "f: versions 2 and 3 are supported, found 1; convert the file");
  parts = {};
  parts.tensor_count = std::uint64_t(1) << 62;
  EXPECT_NE(parse_error(parts).find("tensors: found 4611686018427387904 of them"), std::string::npos);
  parts = {};
  parts.entry_count = ~std::uint64_t(0);
  EXPECT_NE(parse_error(parts).find("metadata: found 18446744073709551615 of them"), std::string::npos);
}

TEST(Gguf, HostileMetadataIsRefused) {
  const auto error = [](std::string entries, std::uint64_t count = 1) {
    GgufParts parts;
    parts.entry_count = count;
    parts.entries = std::move(entries) + std::string(64, '\0');
    return parse_error(parts);
  };
  EXPECT_EQ(error(gguf_entry("k", 13, "")), "f: \"k\": expected a value type from 0 to 12, found 13");
  EXPECT_EQ(error(gguf_entry("k", 7, "\2")), "f: \"k\": expected a boolean, 0 or 1, found 2");
  EXPECT_EQ(error(gguf_entry("k", 10, little_endian(~std::uint64_t(0)))),
            "f: \"k\": expected at most 2^63 - 1, found 18446744073709551615");
  EXPECT_EQ(error(gguf_entry("", 0, "")), "f: key of the metadata: expected 1 to 65535 bytes, found 0");
  EXPECT_NE(error(gguf_entry("k", 8, little_endian(std::uint64_t(1) << 63))).find("the file may be cut off"),
            std::string::npos);
  const auto array = [](std::uint32_t type, std::uint64_t count) { return little_endian(type) + little_endian(count); };
  EXPECT_NE(error(gguf_entry("k", 9, array(8, std::uint64_t(1) << 61))).find("of them and"), std::string::npos);
  EXPECT_NE(error(gguf_entry("k", 9, array(12, std::uint64_t(1) << 61))).find("of them and"), std::string::npos);
  EXPECT_EQ(error(gguf_entry("k", 9, array(9, 0))), "f: \"k\": arrays of arrays and of booleans are not supported");
  EXPECT_EQ(error(gguf_entry("k", 0, "x") + gguf_entry("k", 0, "y"), 2),
            "f: \"k\": expected each key once, found it twice");
  for (const std::uint32_t alignment : {0u, 48u, 1u << 21})
    EXPECT_EQ(error(gguf_entry("general.alignment", 4, little_endian(alignment))),
              concat("f: general.alignment: expected a power of two up to 1048576, found ", alignment));
  EXPECT_EQ(error(gguf_entry("general.alignment", 8, gguf_text("x"))),
            "f: general.alignment: expected a power of two up to 1048576, found another type");
}

TEST(Gguf, HostileTensorsAreRefused) {
  const auto error = [](std::string tensors, std::uint64_t count = 1) {
    GgufParts parts;
    parts.tensor_count = count;
    parts.tensors = std::move(tensors);
    parts.data = std::string(64, 'x');
    return parse_error(parts);
  };
  EXPECT_EQ(error(gguf_tensor("a", {1, 1, 1, 1, 1}, 0, 0)), "f: tensor \"a\": expected at most 4 dimensions, found 5");
  EXPECT_EQ(error(gguf_tensor("a", {32}, 14, 0)),
            "f: tensor \"a\": types F32, F16, BF16, Q4_0, Q4_1 and Q8_0 are supported, found type 14; convert the file "
            "to one of them");
  EXPECT_NE(error(gguf_tensor("a", {33}, 2, 0)).find("expected rows of whole blocks of 32"), std::string::npos);
  EXPECT_NE(error(gguf_tensor("a", {1, std::uint64_t(1) << 62}, 0, 0)).find("less than 2^63 bytes"), std::string::npos);
  EXPECT_NE(error(gguf_tensor("a", {~std::uint64_t(0)}, 0, 0)).find("at most 2^63 - 1"), std::string::npos);
  EXPECT_EQ(error(gguf_tensor("a", {2}, 0, 32)), "f: tensor \"a\": expected the offset 0, found 32");
  EXPECT_EQ(error(gguf_tensor("a", {2}, 0, 0) + gguf_tensor("b", {2}, 0, 0), 2),
            "f: tensor \"b\": expected the offset 32, found 0");
  EXPECT_EQ(error(gguf_tensor("a", {2}, 0, 0) + gguf_tensor("a", {2}, 0, 32), 2),
            "f: tensor \"a\": expected each name once, found it twice");
  EXPECT_NE(error(gguf_tensor("a", {std::uint64_t(1) << 60}, 0, 0)).find("found fewer"), std::string::npos);
}

}  // namespace
}  // namespace cbq
