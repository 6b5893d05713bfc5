#include "quant/export.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <system_error>

#include "core/json.h"
#include "quant/export_format.h"
#include "quant/export_gguf.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

using nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr const char* kConfig = "config.json";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kGptqConfig = "quantize_config.json";
constexpr std::array<std::string_view, 8> kCopiedFiles = {
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json",     "merges.txt",      "generation_config.json"};

bool is_copied(const std::string& name) {
  return std::ranges::find(kCopiedFiles, name) != kCopiedFiles.end() || name.starts_with("chat_template.") ||
         name.starts_with("LICENSE");
}

// model.safetensors, model-00001-of-00003.safetensors and model.gguf.
bool is_shard(const std::string& name) {
  return name == "model.safetensors" || name == kGgufFile ||
         (name.starts_with("model-") && name.find("-of-") != std::string::npos && name.ends_with(".safetensors"));
}

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (entry->is_regular_file(error)) files.push_back(entry->path());
  require_input(!error, folder.string(), ": cannot list the folder: ", error.message());
  std::ranges::sort(files);
  return files;
}

void remove_file(const fs::path& file) {
  std::error_code error;
  fs::remove(file, error);
  require_input(!error, file.string(), ": cannot remove: ", error.message(), "; make the folder writable");
}

// The tensor's own dtype in the source and `stored`, the one that later steps rounded to: the narrowest type that holds
// both kinds of values.
DType kept_dtype(const Checkpoint& source, const std::string& name, DType stored) {
  const DType original = source.contains(name) ? source.info(name).dtype : stored;
  if (original == stored) return stored;
  return size_of(original) > size_of(stored) ? original : size_of(original) < size_of(stored) ? stored : DType::f32;
}

// One run of the exporter: plans all tensors, then writes them in that order.
class Exporter {
 public:
  Exporter(Context& ctx, const ExportSource& source, const LayerFormat& format, const fs::path& folder)
      : ctx_(ctx),
        source_(source),
        checkpoint_(source.checkpoint),
        model_(source.config),
        format_(format),
        folder_(folder) {}

  void run(std::int64_t shard_bytes) {
    std::vector<TensorSpec> planned;
    const std::vector<std::string> outer = outer_names();
    for (const std::string& name : outer)
      planned.push_back({name, checkpoint_.info(name).dtype, checkpoint_.info(name).shape});
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) plan_block(planned, layer);

    ShardWriter shards(folder_, std::move(planned), shard_bytes);
    for (const std::string& name : outer) copy_tensor(shards, name);
    for (std::int64_t layer = 0; layer < model_.layers; ++layer) write_block(shards, layer, source_.block(layer));
    shards.finish();
    for (const fs::path& file : files_in(checkpoint_.folder()))
      if (is_copied(file.filename().string())) write_file(folder_ / file.filename(), read_file(file));
    write_config();
  }

 private:
  // Everything in the source that belongs to no block. A tied head is the embedding; some sources hold it all the same.
  std::vector<std::string> outer_names() const {
    std::vector<std::string> names;
    for (const std::string& name : checkpoint_.names())
      if (!is_in_block(name) && !(model_.tied_head && name == "lm_head.weight")) names.push_back(name);
    return names;
  }

  bool is_in_block(const std::string& name) const {
    for (std::int64_t layer = 0; layer < model_.layers; ++layer)
      if (name.starts_with(block_prefix(layer))) return true;
    return false;
  }

  // "model.layers.3."
  std::string block_prefix(std::int64_t layer) const {
    std::string name = linear_name(model_, layer, LinearRole::q);
    return name.substr(0, name.size() - short_name(model_, LinearRole::q).size());
  }

  // The tensors of a block but the quantised weights: name, shape; `visit` is called in the order of the plan.
  template <class VisitWeight, class VisitPlain>
  void for_each_tensor(std::int64_t layer, const VisitWeight& visit_weight, const VisitPlain& visit_plain) const {
    for (const LinearRole role : linear_roles(model_.family)) {
      const std::string name = linear_name(model_, layer, role);
      const LinearSpec& spec = source_.specs.at(std::size_t(layer))[std::size_t(role)];
      const Shape shape = weight_shape(model_, role);
      const auto linear = [role](const HardBlock& block) -> const Linear& { return block.weights[role]; };
      if (spec.weight.quantised())
        visit_weight(name, role, shape, spec);
      else
        visit_plain(name + ".weight", shape, [=](const HardBlock& block) { return linear(block).weight; });
      if (has_bias(model_, role))
        visit_plain(name + ".bias", Shape{shape[0]}, [=](const HardBlock& block) { return linear(block).bias; });
    }
    for (const NormRole role : {NormRole::attention, NormRole::mlp}) {
      const std::string name = norm_name(model_, layer, role);
      const auto norm = [role](const HardBlock& block) -> const Norm& {
        return role == NormRole::attention ? block.weights.attention_norm : block.weights.mlp_norm;
      };
      visit_plain(name + ".weight", Shape{model_.hidden}, [=](const HardBlock& block) { return norm(block).weight; });
      if (model_.family == Family::opt)
        visit_plain(name + ".bias", Shape{model_.hidden}, [=](const HardBlock& block) { return norm(block).bias; });
    }
  }

  void plan_block(std::vector<TensorSpec>& planned, std::int64_t layer) const {
    for_each_tensor(
        layer,
        [&](const std::string& name, LinearRole, const Shape& shape, const LinearSpec& spec) {
          std::ranges::copy(format_.tensors(name, shape, spec, model_.dtype), std::back_inserter(planned));
        },
        [&](const std::string& name, const Shape& shape, const auto&) {
          planned.push_back({name, kept_dtype(checkpoint_, name, model_.dtype), shape});
        });
  }

  void write_block(ShardWriter& shards, std::int64_t layer, const HardBlock& block) {
    for_each_tensor(
        layer,
        [&](const std::string& name, LinearRole role, const Shape& shape, const LinearSpec& spec) {
          const auto& hard = block.hard[std::size_t(role)];
          require(hard && hard->codes.shape() == shape && hard->spec.bits == spec.weight.bits, "export: ", name,
                  ": the integers in the store do not belong to this run");
          format_.write(ctx_, shards, name, *hard, spec, model_.dtype);
        },
        [&](const std::string& name, const Shape& shape, const auto& value) {
          const Tensor x = value(block).value;
          const DType dtype = kept_dtype(checkpoint_, name, model_.dtype);
          require(x && x.shape() == shape, "export: the store has no ", name, " of shape ", shape);
          const auto bytes = exact_bytes(ctx_, x, dtype);
          require(bytes.has_value(), "export: ", name, " is not exact in ", dtype);
          shards.write(name, *bytes);
        });
    kv_cache_ = block.kv_cache;
    for (const LinearRole role : linear_roles(model_.family))
      if (const double factor = block.activation_factor[std::size_t(site_of(role))]; factor != 1)
        activation_factors_[linear_name(model_, layer, role)] = factor;
  }

  void copy_tensor(ShardWriter& shards, const std::string& name) const {
    shards.write(name, checkpoint_.bytes(name));
    checkpoint_.release(name);
  }

  void write_config() const {
    const fs::path source = checkpoint_.folder() / kConfig;
    const std::string text = read_file(source);
    parse_json_text(text, source.string());  // strict, where the parser that keeps the order of keys is not
    ordered_json config = ordered_json::parse(text);
    for (const char* key : {"quantization_config", "cbq"}) config.erase(key);
    format_.describe(config, {model_, source_.specs, kv_cache_, activation_factors_});
    if (const std::string file = format_.config_file(); !file.empty() && config.contains("quantization_config"))
      write_file(folder_ / file, config["quantization_config"].dump(2) + "\n");
    write_file(folder_ / kConfig, config.dump(2) + "\n");
  }

  Context& ctx_;
  const ExportSource& source_;
  const Checkpoint& checkpoint_;
  const ModelConfig& model_;
  const LayerFormat& format_;
  const fs::path& folder_;
  ActivationSpec kv_cache_;  // of the blocks written so far, all of which have the same
  ordered_json activation_factors_ = ordered_json::object();
};

}  // namespace

// config.json goes first: without it no reader takes the folder for a model.
void remove_earlier_export(const fs::path& folder) {
  remove_file(folder / kConfig);
  for (const char* name : {kIndex, kGptqConfig}) remove_file(folder / name);
  for (const fs::path& file : files_in(folder))
    if (is_shard(file.filename().string())) remove_file(file);
}

void write_checkpoint(Context& ctx, const ExportSource& source, const LayerFormat& format, const fs::path& folder,
                      std::int64_t shard_bytes) {
  Exporter(ctx, source, format, folder).run(shard_bytes);
}

}  // namespace cbq
