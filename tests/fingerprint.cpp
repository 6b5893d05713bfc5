// What a run's fingerprint follows and what it is free of.
#include "quant/store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cpu/open.h"
#include "tests/error_text.h"
#include "tests/tiny_model.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;

TEST(RunFingerprint, FollowsWhatInfluencesTheResult) {
  const auto ctx = cpu::open(1);
  const TempFolder temp;
  write_tiny_model(*ctx, temp / "model", {});
  write_file(temp / "a.txt", "some text");
  RunConfig config;
  config.model = temp / "model";
  config.dataset = {temp / "a.txt"};
  config.output_dir = temp / "out";
  const Fingerprint base = fingerprint(config);
  const auto same = [&](const Fingerprint& other) {
    return base.config == other.config && base.model == other.model && base.dataset == other.dataset;
  };
  RunConfig free = config;
  free.threads = 3;
  free.output_dir = temp / "elsewhere";
  free.eval.windows = 5;
  free.exports = {Export::dense, Export::gptq};
  fs::copy(temp / "model", temp / "moved");
  free.model = temp / "moved";
  EXPECT_TRUE(same(fingerprint(free)));
  EXPECT_NE(base.export_format, fingerprint(free).export_format);

  RunConfig bound = config;
  bound.rank = 6;
  EXPECT_EQ(fingerprint(bound).config.at("rank"), 6);
  EXPECT_FALSE(same(fingerprint(bound)));
  write_file(temp / "a.txt", "some texT");
  EXPECT_NE(fingerprint(config).dataset, base.dataset);
  write_file(temp / "a.txt", "some text");
  EXPECT_TRUE(same(fingerprint(config)));
  std::string shard = read_file(temp / "model/model.safetensors");
  shard[shard.size() - 3] = char(shard[shard.size() - 3] ^ 1);
  write_file(temp / "model/model.safetensors", shard);
  EXPECT_NE(fingerprint(config).model, base.model);
  config.dataset.push_back(temp / "missing.txt");
  EXPECT_TRUE(error_text([&] { fingerprint(config); }).find("missing.txt") != std::string::npos);
}

// A sparse file stands for a shard of more than 1 GiB.
TEST(RunFingerprint, SamplesLargeShards) {
  const auto ctx = cpu::open(1);
  const TempFolder temp;
  write_tiny_model(*ctx, temp / "model", {});
  RunConfig config;
  config.model = temp / "model";
  const fs::path shard = temp / "model/model-00001-of-00001.safetensors";
  write_file(shard, "x");
  fs::resize_file(shard, (std::uintmax_t(1) << 30) + 12345);
  const std::string before = fingerprint(config).model;
  EXPECT_EQ(fingerprint(config).model, before);
  const auto put = [&](std::int64_t offset) {
    std::fstream file(shard, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(offset);
    file.put('y');
  };
  put(100);
  const std::string header_changed = fingerprint(config).model;
  EXPECT_NE(header_changed, before);
  put((std::int64_t(1) << 30) + 12344);
  EXPECT_NE(fingerprint(config).model, header_changed) << "the last byte";
}

}  // namespace
}  // namespace cbq
