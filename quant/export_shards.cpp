#include <iomanip>
#include <sstream>

#include "quant/export_format.h"

namespace cbq {
namespace {

std::string shard_name(std::size_t number, std::size_t count) {
  if (count == 1) return "model.safetensors";
  std::ostringstream name;
  name << "model-" << std::setfill('0') << std::setw(5) << number << "-of-" << std::setw(5) << count << ".safetensors";
  return name.str();
}

}  // namespace

ShardWriter::ShardWriter(std::filesystem::path folder, std::vector<TensorSpec> specs, std::int64_t shard_bytes)
    : folder_(std::move(folder)) {
  std::int64_t bytes_in_shard = 0;
  for (TensorSpec& spec : specs) {
    const std::int64_t bytes = size_of(spec.dtype) * spec.shape.count();
    if (shards_.empty() || (bytes_in_shard > 0 && bytes_in_shard + bytes > shard_bytes)) {
      shards_.emplace_back();
      bytes_in_shard = 0;
    }
    shards_.back().specs.push_back(std::move(spec));
    bytes_in_shard += bytes;
    total_bytes_ += bytes;
  }
  require(!shards_.empty(), "export: a model without tensors");
  for (std::size_t i = 0; i < shards_.size(); ++i) shards_[i].file_name = shard_name(i + 1, shards_.size());
}

void ShardWriter::next_shard() {
  if (writer_) writer_->finish();
  writer_.reset();
  written_ = 0;
  if (opened_ == shards_.size()) return;
  const Shard& shard = shards_[opened_++];
  writer_.emplace(folder_ / shard.file_name, shard.specs);
}

void ShardWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  if (!writer_ || written_ == shards_[opened_ - 1].specs.size()) next_shard();
  require(writer_.has_value(), "export: tensor ", name, " was not planned");
  writer_->write(name, bytes);
  ++written_;
}

void ShardWriter::finish() {
  require(writer_ && opened_ == shards_.size(), "export: expected all ", shards_.size(), " shards, found ", opened_);
  next_shard();
  if (shards_.size() == 1) return;
  nlohmann::ordered_json index = {{"metadata", {{"total_size", total_bytes_}}},
                                  {"weight_map", nlohmann::ordered_json::object()}};
  for (const Shard& shard : shards_)
    for (const TensorSpec& spec : shard.specs) index["weight_map"][spec.name] = shard.file_name;
  write_file(folder_ / "model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace cbq
