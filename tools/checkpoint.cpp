// make_checkpoint: a LLaMA checkpoint with random weights of any shape, for measuring memory and time at sizes nobody
// wants to download. bf16, one shard a block; the tokenizer and the names come from a small model.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/dtype.h"
#include "core/files.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/rng.h"
#include "core/safetensors.h"

namespace {

using namespace cbq;
namespace fs = std::filesystem;

struct Options {
  fs::path output, base;
  std::int64_t hidden = 8192, ffn = 22016, heads = 64, kv_heads = 64, blocks = 8, positions = 2048;
  std::uint64_t seed = 0;
};

constexpr std::size_t kPool = (1 << 22) + 1;  // odd, so that no two rows are alike

// Endless normal numbers in bf16, repeated from a pool.
class Noise {
 public:
  Noise(std::uint64_t seed, double deviation) : values_(kPool) {
    Rng rng(seed);
    for (std::uint16_t& v : values_) v = f32_to_bf16(float(deviation * rng.normal()));
  }
  void write(SafetensorsWriter& writer, std::int64_t count) {
    while (count > 0) {
      const std::size_t n = std::min(std::size_t(count), values_.size() - next_);
      writer.append(std::as_bytes(std::span(values_).subspan(next_, n)));
      next_ = (next_ + n) % values_.size();
      count -= std::int64_t(n);
    }
  }

 private:
  std::vector<std::uint16_t> values_;
  std::size_t next_ = 0;
};

std::vector<TensorSpec> block_specs(const Options& o, std::int64_t block) {
  const std::string prefix = concat("model.layers.", block, ".");
  const std::int64_t kv = o.hidden / o.heads * o.kv_heads;
  std::vector<TensorSpec> specs;
  const auto add = [&](const std::string& name, Shape shape) {
    specs.push_back({prefix + name + ".weight", DType::bf16, shape});
  };
  add("self_attn.q_proj", {o.hidden, o.hidden});
  add("self_attn.k_proj", {kv, o.hidden});
  add("self_attn.v_proj", {kv, o.hidden});
  add("self_attn.o_proj", {o.hidden, o.hidden});
  add("mlp.gate_proj", {o.ffn, o.hidden});
  add("mlp.up_proj", {o.ffn, o.hidden});
  add("mlp.down_proj", {o.hidden, o.ffn});
  add("input_layernorm", {o.hidden});
  add("post_attention_layernorm", {o.hidden});
  return specs;
}

void write_shard(const fs::path& file, const std::vector<TensorSpec>& specs, Noise& noise) {
  SafetensorsWriter writer(file, specs);
  for (const TensorSpec& spec : specs) {
    const std::vector<std::uint16_t> ones(std::size_t(spec.shape.count() * (spec.shape.rank() == 1)), f32_to_bf16(1));
    if (spec.shape.rank() == 1)
      writer.append(std::as_bytes(std::span(ones)));
    else
      noise.write(writer, spec.shape.count());
  }
  writer.finish();
}

void make(const Options& o) {
  nlohmann::json config = parse_json_file(o.base / "config.json");
  require_input(o.hidden % o.heads == 0, "--heads: expected a divisor of ", o.hidden, ", found ", o.heads);
  require_input(o.heads % o.kv_heads == 0, "--kv-heads: expected a divisor of ", o.heads, ", found ", o.kv_heads);
  require_input(!fs::exists(o.output), o.output.string(), ": expected a new folder, found one; delete it first");
  fs::create_directories(o.output);
  for (const auto& entry : fs::directory_iterator(o.base))
    if (entry.path().filename().string().starts_with("tokenizer")) fs::copy(entry.path(), o.output);

  const std::int64_t vocab = config.at("vocab_size").get<std::int64_t>(), shards = o.blocks + 1;
  Noise noise(o.seed, 0.02);
  nlohmann::json weight_map;
  Progress progress(stderr, "checkpoint", shards);
  for (std::int64_t i = 0; i < shards; ++i) {
    char name[64];
    std::snprintf(name, sizeof name, "model-%05lld-of-%05lld.safetensors", static_cast<long long>(i + 1),
                  static_cast<long long>(shards));
    std::vector<TensorSpec> specs;
    if (i < o.blocks)
      specs = block_specs(o, i);
    else
      specs = {{"model.embed_tokens.weight", DType::bf16, {vocab, o.hidden}},
               {"model.norm.weight", DType::bf16, {o.hidden}},
               {"lm_head.weight", DType::bf16, {vocab, o.hidden}}};
    write_shard(o.output / name, specs, noise);
    for (const TensorSpec& spec : specs) weight_map[spec.name] = name;
    progress.update(i + 1, name);
  }
  progress.finish("");
  write_file(o.output / "model.safetensors.index.json",
             nlohmann::json{{"metadata", nlohmann::json::object()}, {"weight_map", weight_map}}.dump(1) + "\n");
  config["hidden_size"] = o.hidden, config["intermediate_size"] = o.ffn, config["num_attention_heads"] = o.heads;
  config["num_key_value_heads"] = o.kv_heads, config["head_dim"] = o.hidden / o.heads;
  config["num_hidden_layers"] = o.blocks, config["max_position_embeddings"] = o.positions;
  config["torch_dtype"] = "bfloat16", config["tie_word_embeddings"] = false;
  write_file(o.output / "config.json", config.dump(1) + "\n");
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app("Writes a LLaMA checkpoint of random weights, by default 8 blocks of LLaMA-65B's shape (13 GB).",
               "make_checkpoint");
  app.add_option("OUTPUT", o.output, "Folder to make")->required();
  app.add_option("--base", o.base, "Model whose tokenizer and vocabulary it takes")->required();
  for (const auto& [name, value] : {std::pair{"--hidden", &o.hidden},
                                    {"--ffn", &o.ffn},
                                    {"--heads", &o.heads},
                                    {"--kv-heads", &o.kv_heads},
                                    {"--blocks", &o.blocks},
                                    {"--positions", &o.positions}})
    app.add_option(name, *value)->check(CLI::Range(std::int64_t(1), std::int64_t(1) << 24))->capture_default_str();
  app.add_option("--seed", o.seed)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    make(o);
  } catch (const Error& error) {
    std::cerr << "make_checkpoint: error: " << error.what() << std::endl;
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "make_checkpoint: error: " << error.what() << std::endl;
    return 1;
  }
}
