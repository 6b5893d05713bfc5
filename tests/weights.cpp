// Checkpoint folders: shards, index, conversion, and what hostile ones are told.
#include "models/weights.h"

#include <gtest/gtest.h>

#include <cmath>

#include "checkpoint_files.h"
#include "cpu/open.h"
#include "error_text.h"
#include "models/model.h"
#include "temp_folder.h"

namespace cbq {
namespace {

using nlohmann::json;

const auto kContext = cpu::open();

StoredTensor floats(const std::string& name, const std::vector<float>& values) {
  return stored(name, DType::f32, {std::int64_t(values.size())}, values);
}

std::string open_error(const TempFolder& folder) {
  return error_text([&] { Checkpoint checkpoint(folder.path()); });
}

void expect_part(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
}

void write_index(const TempFolder& folder, const json& weight_map) {
  write_file(folder / "model.safetensors.index.json", json{{"weight_map", weight_map}}.dump());
}

// Two shards with tensors a and b.
void write_two_shards(const TempFolder& folder) {
  write_shard(folder / "model-00001-of-00002.safetensors", {floats("a", {1, 2})});
  write_shard(folder / "model-00002-of-00002.safetensors", {floats("b", {3})});
}

TEST(Checkpoint, ReadsShardsWithAndWithoutIndex) {
  const TempFolder folder;
  write_two_shards(folder);
  for (const bool indexed : {false, true}) {
    if (indexed)
      write_index(folder, {{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}});
    const Checkpoint checkpoint(folder.path());
    EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(checkpoint.total_bytes(), 12);
    EXPECT_EQ(to_host<float>(*kContext, checkpoint.load(*kContext, "a", {2}, DType::f32)), (std::vector<float>{1, 2}));
    EXPECT_EQ(to_host<float>(*kContext, checkpoint.load(*kContext, "b", {1}, DType::f32)), (std::vector<float>{3}));
  }
}

TEST(Checkpoint, NamesWhatIsMissing) {
  const TempFolder folder;
  expect_part(open_error(folder), "model.safetensors");
  expect_part(error_text([&] { Checkpoint checkpoint(folder / "absent"); }), "absent");
  write_two_shards(folder);
  std::filesystem::remove(folder / "model-00002-of-00002.safetensors");
  expect_part(open_error(folder), "expected 2 files");
  write_index(folder, {{"a", "model-00001-of-00002.safetensors"}, {"b", "model-00002-of-00002.safetensors"}});
  expect_part(open_error(folder), "model-00002-of-00002.safetensors");
}

TEST(Checkpoint, RefusesAnIndexThatContradictsTheShards) {
  const TempFolder folder;
  write_two_shards(folder);
  const json first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  write_index(folder, {{"a", second}, {"b", first}});
  expect_part(open_error(folder), "\"a\" should be in \"model-00002-of-00002.safetensors\", found it in");
  write_index(folder, {{"a", first}, {"b", second}, {"c", second}});
  expect_part(open_error(folder), "\"c\"");
  for (const json& name : {json("../model.safetensors"), json("/etc/passwd"), json(".."), json(""), json(3),
                           json(nullptr), json("sub/model.safetensors"), json("config.json")}) {
    write_index(folder, {{"a", name}});
    expect_part(open_error(folder), "\"a\": expected");
  }
  write_index(folder, json::object());
  expect_part(open_error(folder), "expected tensors");
  for (const char* text : {"{}", "[]", "{\"weight_map\": []}", "{"}) {
    write_file(folder / "model.safetensors.index.json", text);
    expect_part(open_error(folder), "index.json");
  }
}

TEST(Checkpoint, RefusesATensorInTwoShards) {
  const TempFolder folder;
  write_shard(folder / "model-1.safetensors", {floats("a", {1})});
  write_shard(folder / "model-2.safetensors", {floats("a", {1})});
  expect_part(open_error(folder), "tensor \"a\" is in");
}

TEST(Checkpoint, RefusesDamagedShards) {
  const TempFolder folder;
  for (const char* text : {"", "12345678", "\xff\xff\xff\xff\xff\xff\xff\x7f", "garbage that is long enough"}) {
    write_file(folder / "model.safetensors", text);
    expect_part(open_error(folder), "model.safetensors");
  }
}

TEST(Checkpoint, ConvertsEveryFloatType) {
  const TempFolder folder;
  const std::vector<float> values = {0, 1, -0.5f, 3.140625f, 65504};
  std::vector<std::uint16_t> half, brain;
  for (const float v : values) half.push_back(f32_to_f16(v)), brain.push_back(f32_to_bf16(v));
  write_shard(
      folder / "model.safetensors",
      {stored("half", DType::f16, {5}, half), stored("brain", DType::bf16, {5}, brain), floats("single", values),
       stored("double", DType::f64, {5}, std::vector<double>(values.begin(), values.end()))});
  const Checkpoint checkpoint(folder.path());
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16})
    for (const char* name : {"half", "brain", "single", "double"}) {
      const Tensor x = checkpoint.load(*kContext, name, {5}, dtype);
      EXPECT_EQ(x.dtype(), dtype);
      const auto found = to_host<float>(*kContext, x);
      for (std::size_t i = 0; i < values.size(); ++i) {
        float expected = values[i];
        if (dtype == DType::bf16 || std::string(name) == "brain") expected = bf16_to_f32(f32_to_bf16(expected));
        if (dtype == DType::f16) expected = f16_to_f32(f32_to_f16(expected));
        EXPECT_EQ(found[i], expected) << name << " as " << dtype;
      }
    }
}

TEST(Checkpoint, RefusesTensorsThatAreNotWhatIsExpected) {
  const TempFolder folder;
  std::vector<float> many(10000, 1.0f);
  many[9000] = NAN;
  many[3] = -INFINITY;
  write_shard(folder / "model.safetensors", {floats("good", {1, 2}), floats("bad", many),
                                             stored("half", DType::f16, {2}, std::vector<std::uint16_t>{0x7c00, 0}),
                                             stored("ids", DType::i32, {2}, std::vector<std::int32_t>{1, 2})});
  const Checkpoint checkpoint(folder.path());
  const auto load_error = [&](const std::string& name, const Shape& shape, DType dtype) {
    return error_text([&] { checkpoint.load(*kContext, name, shape, dtype); });
  };
  expect_part(load_error("good", {2, 1}, DType::f32), "tensor \"good\": expected the shape (2, 1), found (2)");
  expect_part(load_error("absent", {2}, DType::f32), "tensor \"absent\"");
  expect_part(load_error("ids", {2}, DType::f32), "expected floats, found i32");
  expect_part(load_error("bad", {10000}, DType::f32), "tensor \"bad\": expected finite numbers, found 2 NaN");
  expect_part(load_error("half", {2}, DType::f16), "found 1 NaN");
}

TEST(Checkpoint, KnowsOptNamesWithoutModel) {
  const TempFolder folder;
  copy_model("opt-350m", folder.path(), json::object());
  const SafetensorsFile whole(folder / "model.safetensors");
  std::vector<StoredTensor> renamed;
  for (const auto& [name, info] : whole.tensors()) {
    if (!name.starts_with("model.decoder.")) continue;
    const auto bytes = whole.bytes(name);
    renamed.push_back(
        {{name.substr(6), info.dtype, info.shape}, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}});
  }
  ASSERT_FALSE(renamed.empty());
  write_shard(folder / "renamed.safetensors", renamed);
  std::filesystem::rename(folder / "renamed.safetensors", folder / "model.safetensors");
  const Model model(*kContext, folder.path());
  EXPECT_EQ(model.block_weights(1)[LinearRole::down].weight.shape(), (Shape{32, 48}));
}

TEST(Checkpoint, AModelThatContradictsItsConfigIsRefused) {
  const auto model_error = [](const std::string& name, const json& patch) {
    const TempFolder folder;
    copy_model(name, folder.path(), patch);
    return error_text([&] { Model(*kContext, folder.path()).block(1); });
  };
  EXPECT_EQ(model_error("llama3", json::object()), "no error");
  expect_part(model_error("llama3", {{"vocab_size", 1 << 26}}), "expected the shape (67108864, 32), found (64, 32)");
  expect_part(model_error("llama3", {{"head_dim", 1 << 24}}), "expected the shape");
  expect_part(model_error("llama3", {{"intermediate_size", 50}}), "gate_proj.weight");
  expect_part(model_error("mistral", {{"architectures", {"Qwen2ForCausalLM"}}}), "q_proj.bias");
  expect_part(model_error("qwen2", {{"tie_word_embeddings", false}}), "lm_head.weight");
  expect_part(model_error("opt-350m", {{"max_position_embeddings", 100}}), "embed_positions.weight");
  expect_part(model_error("llama3", {{"architectures", {"OPTForCausalLM"}}, {"ffn_dim", 48}}), "model.decoder");
}

TEST(Checkpoint, PositionsBeyondTheModelAreRefused) {
  const auto sequence_error = [](const std::string& name, std::int64_t begin, std::int64_t tokens) {
    const ModelConfig config = read_model_config("tests/data/models/" + name);
    return error_text([&] { make_sequence(*kContext, config, 1, begin, tokens, DType::f32); });
  };
  EXPECT_EQ(sequence_error("opt-350m", 0, 64), "no error");
  expect_part(sequence_error("opt-350m", 1, 64), "max_position_embeddings");
  EXPECT_EQ(sequence_error("mistral", 0, 32), "no error");
  expect_part(sequence_error("mistral", 1, 32), "sliding_window");
  expect_part(sequence_error("llama3", 0, 257), "max_position_embeddings");
}

}  // namespace
}  // namespace cbq
