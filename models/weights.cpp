#include "models/weights.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/json.h"
#include "core/kernels.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

// Some OPT checkpoints leave the outermost module out of their names.
std::string canonical(const std::string& name) {
  return name.starts_with("decoder.") ? "model." + name : name;
}

// The files that the index names, each once. The names come from a file and must stay inside the folder.
std::vector<fs::path> indexed_shards(const fs::path& folder, const json& weight_map, const std::string& where) {
  std::set<std::string> names;
  for (const auto& [tensor, shard] : weight_map.items()) {
    require_input(shard.is_string(), where, ": ", quoted_text(tensor), ": expected a file name, found ",
                  shard.type_name());
    const auto& name = shard.get_ref<const std::string&>();
    require_input(fs::path(name).filename() == name && fs::path(name).extension() == ".safetensors", where, ": ",
                  quoted_text(tensor), ": expected the name of a .safetensors file in the folder, found ",
                  quoted_text(name));
    names.insert(name);
  }
  require_input(!names.empty(), where, ": expected tensors, found none");
  std::vector<fs::path> files;
  for (const std::string& name : names) {
    require_input(fs::is_regular_file(folder / name), (folder / name).string(), ": this shard is named by ", kIndexFile,
                  " and is missing; fetch the checkpoint again");
    files.push_back(folder / name);
  }
  return files;
}

json read_weight_map(const fs::path& index) {
  json root = parse_json_file(index);
  require_input(root.is_object() && root.contains("weight_map") && root["weight_map"].is_object(), index.string(),
                ": expected an object \"weight_map\", not found");
  return std::move(root["weight_map"]);
}

// model-00002-of-00004.safetensors says that there are four. 0: the name has another form.
int shard_count(const std::string& stem) {
  const std::size_t at = stem.rfind("-of-");
  int count = 0;
  if (at != std::string::npos) std::from_chars(stem.data() + at + 4, stem.data() + stem.size(), count);
  return count;
}

std::vector<fs::path> listed_shards(const fs::path& folder) {
  std::vector<fs::path> files;
  int expected = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& path = entry.path();
    if (path.extension() != ".safetensors" || !path.filename().string().starts_with("model-")) continue;
    files.push_back(path);
    expected = std::max(expected, shard_count(path.stem().string()));
  }
  require_input(!files.empty(), folder.string(), ": expected ", kSingleFile,
                " or model-*.safetensors, found none; other formats have to be converted to safetensors first");
  require_input(expected <= std::ssize(files), folder.string(), ": expected ", expected,
                " files model-*.safetensors, found ", files.size(), "; fetch the missing ones");
  std::sort(files.begin(), files.end());
  return files;
}

void check_finite(Context& ctx, const Tensor& x, const std::string& what) {
  const Tensor count(ctx, {1}, DType::i32);
  ctx.kernels->count_non_finite(ctx, count, x);
  const std::int32_t found = to_host<std::int32_t>(ctx, count)[0];
  require_input(found == 0, what, ": expected finite numbers, found ", found, " NaN or infinities among ", x.count(),
                "; the file may be damaged, fetch it again");
}

}  // namespace

Tensor round_to(Context& ctx, const Tensor& x, DType stored) {
  return stored == x.dtype() ? x : convert(ctx, convert(ctx, x, stored), x.dtype());
}

Checkpoint::Checkpoint(fs::path folder) : folder_(std::move(folder)) {
  if (const auto file = gguf_file(folder_)) {
    gguf_ = std::make_unique<const GgufModel>(*file);
    return;
  }
  require_input(fs::is_directory(folder_), folder_.string(), ": expected the folder of a checkpoint, ",
                fs::exists(folder_) ? "found a file" : "there is nothing of that name");
  const fs::path index = folder_ / kIndexFile;
  if (fs::exists(folder_ / kSingleFile)) {
    add_shard(folder_ / kSingleFile);
  } else if (fs::exists(index)) {
    const json weight_map = read_weight_map(index);
    for (const fs::path& file : indexed_shards(folder_, weight_map, index.string())) add_shard(file);
    for (const auto& [name, shard] : weight_map.items()) check_place(name, shard.get<std::string>());
  } else {
    for (const fs::path& file : listed_shards(folder_)) add_shard(file);
  }
  read_quantization();
}

// From config.json, or from the file that AutoGPTQ wrote beside it. config.json's "cbq" is what the method of its
// quantization_config has no place for.
void Checkpoint::read_quantization() {
  const fs::path config = folder_ / "config.json", of_gptq = folder_ / "quantize_config.json";
  if (!fs::exists(config)) return;
  const json root = parse_json_file(config);
  const auto member = [&](const char* key) {
    const auto found = root.is_object() ? root.find(key) : root.end();
    return found == root.end() || found->is_null() ? nullptr : &*found;
  };
  if (const json* found = member("quantization_config")) {
    quantization_.emplace(*found, config.string() + ": quantization_config");
  } else if (fs::exists(of_gptq)) {
    json object = parse_json_file(of_gptq);
    require_input(object.is_object(), of_gptq.string(), ": expected an object, found ", object.type_name());
    object.emplace("quant_method", "gptq");
    quantization_.emplace(object, of_gptq.string());
  }
  if (const json* own = member("cbq")) {
    const std::string where = config.string() + ": cbq";
    if (quantization_)
      quantization_->read_own(*own, where);
    else
      quantization_.emplace(QuantizationConfig::of_dense(*own, where));
  }
}

void Checkpoint::add_shard(const fs::path& file) {
  shards_.push_back(std::make_unique<SafetensorsFile>(file));
  for (const auto& [name, info] : shards_.back()->tensors()) {
    const auto [known, is_new] = where_.try_emplace(canonical(name), Place{shards_.size() - 1, name});
    require_input(is_new, file.string(), ": tensor ", quoted_text(name), " is in ",
                  shards_[known->second.shard]->path().string(), " too; expected each tensor once");
  }
}

void Checkpoint::check_place(const std::string& stored_name, const std::string& shard) const {
  const auto found = where_.find(canonical(stored_name));
  const std::string file = found == where_.end() ? "" : shards_[found->second.shard]->path().filename().string();
  require_input(file == shard, (folder_ / kIndexFile).string(), ": tensor ", quoted_text(stored_name), " should be in ",
                quoted_text(shard), ", found ", file.empty() ? "in no shard" : "it in " + quoted_text(file));
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> names;
  if (gguf_)
    for (const auto& [name, info] : gguf_->tensors()) names.push_back(name);
  for (const auto& [name, place] : where_) names.push_back(name);
  return names;
}

const Checkpoint::Place& Checkpoint::place(const std::string& name) const {
  const auto found = where_.find(name);
  require_input(found != where_.end(), tensor_text(name), ": expected this tensor, not found among ", where_.size(),
                " tensors; config.json may belong to another checkpoint");
  return found->second;
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
  if (gguf_) {
    const auto found = gguf_->tensors().find(name);
    require_input(found != gguf_->tensors().end(), tensor_text(name), ": expected this tensor, not found among ",
                  gguf_->tensors().size(), " tensors");
    return found->second;
  }
  const Place& at = place(name);
  return shards_[at.shard]->info(at.stored_name);
}

std::int64_t Checkpoint::total_bytes() const {
  std::int64_t bytes = 0;
  for (const std::string& name : names()) bytes += info(name).bytes;
  return bytes;
}

std::span<const std::byte> Checkpoint::bytes(const std::string& name) const {
  const Place& at = place(name);
  return shards_[at.shard]->bytes(at.stored_name);
}

void Checkpoint::release(const std::string& name) const {
  const Place& at = place(name);
  shards_[at.shard]->release(at.stored_name);
}

void Checkpoint::read_ahead(Context& ctx, const std::vector<std::string>& prefixes) const {
  std::vector<StagedTensors::Source> sources;
  for (const std::string& prefix : prefixes)
    for (auto at = where_.lower_bound(prefix); at != where_.end() && at->first.starts_with(prefix); ++at)
      sources.push_back({at->first, bytes(at->first), [this, name = at->first] { release(name); }});
  staged_->start(ctx, std::move(sources));
}

std::int64_t Checkpoint::bytes_below(const std::string& prefix) const {
  std::int64_t sum = 0;
  for (auto at = where_.lower_bound(prefix); at != where_.end() && at->first.starts_with(prefix); ++at)
    sum += info(at->first).bytes;
  return sum;
}

std::string Checkpoint::tensor_text(const std::string& name) const {
  return concat(folder_.string(), ": tensor ", quoted_text(name));
}

void Checkpoint::expect(const std::string& name, const Shape& shape, DType dtype) const {
  const TensorInfo& found = info(name);
  require_input(found.shape == shape && found.dtype == dtype, tensor_text(name), ": expected ", shape, " ", dtype,
                ", found ", found.shape, " ", found.dtype);
}

bool Checkpoint::is_quantised() const {
  if (!gguf_) return quantization_.has_value();
  return std::ranges::any_of(gguf_->file().tensors(), [](const auto& t) { return cbq::is_quantised(t.second.type); });
}

Tensor Checkpoint::load_stored(Context& ctx, const std::string& name, const Shape& expected) const {
  const TensorInfo& found = info(name);
  require_input(found.shape == expected, tensor_text(name), ": expected the shape ", expected, ", found ", found.shape);
  if (gguf_) return gguf_->load(ctx, name);
  require_input(is_float(found.dtype), tensor_text(name), ": expected floats, found ", found.dtype);
  const std::span<const std::byte> staged = staged_->bytes(name);
  Tensor stored = from_host_bytes(ctx, found.shape, found.dtype, staged.empty() ? bytes(name) : staged);
  release(name);
  return stored;
}

Tensor Checkpoint::load(Context& ctx, const std::string& name, const Shape& expected, DType dtype) const {
  const Tensor stored = load_stored(ctx, name, expected);
  const DType computed = statistics_dtype(dtype);
  const Tensor values = stored.dtype() == computed ? stored : convert(ctx, stored, computed);
  check_finite(ctx, values, tensor_text(name));
  if (dtype == computed) return values;
  return stored.dtype() == dtype ? stored : convert(ctx, stored, dtype);
}

StoredScheme Checkpoint::scheme(const std::string& name) const {
  if (gguf_) return gguf_->scheme(name);
  if (!quantization_) return {};
  StoredScheme stored = quantization_->scheme(name);
  // GPTQ does not name the layers that it leaves as they are, such as the head.
  if (is_gptq(stored.format) && !contains(name + ".qweight")) stored.wbits = 16;
  return stored;
}

}  // namespace cbq
