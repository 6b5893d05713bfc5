#include "tools/train_config.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/files.h"
#include "core/json.h"
#include "quant/config_fields.h"

namespace cbq {

namespace {

struct TrainKey {
  std::string name, allowed, meaning;
  std::function<void(TrainConfig&, const ConfigValue&)> read;
};

template <class T, class Rule>
TrainKey key(std::string name, T TrainConfig::*member, Rule rule, std::string meaning) {
  return {std::move(name), rule.allowed(), std::move(meaning),
          [=](TrainConfig& config, const ConfigValue& value) { config.*member = T(rule.read(value)); }};
}

std::vector<TrainKey> make_keys() {
  using C = TrainConfig;
  const Choices<Family> families{{{"llama", Family::llama}, {"opt", Family::opt}}};
  const Choices<DType> dtypes{{{"f16", DType::f16}, {"bf16", DType::bf16}, {"f32", DType::f32}}};
  const Choices<Device> devices{{{"cpu", Device::cpu}, {"cuda", Device::cuda}}};
  const IntegerRange width{1, 1 << 16}, few{1, 4096}, many{1, 1'000'000'000};
  return {
      key("family", &C::family, families, "architecture; always needed"),
      key("output_dir", &C::output_dir, Path(), "folder of the result; always needed"),
      key("dataset", &C::dataset, Paths(), "text to learn: .txt, .raw, .json, .jsonl, also .gz; always needed"),
      key("validation", &C::validation, Paths(), "text to measure perplexity on at the end"),
      key("vocab", &C::vocab, IntegerRange{1, 1 << 20}, "entries of the tokenizer, which is trained first"),
      key("hidden", &C::hidden, width, "width of the residual stream; a multiple of heads"),
      key("layers", &C::layers, few, "blocks"),
      key("heads", &C::heads, few, "attention heads"),
      key("kv_heads", &C::kv_heads, few, "key and value heads, a divisor of heads; as many where absent"),
      key("ffn", &C::ffn, width, "width of the feed-forward layers"),
      key("seqlen", &C::seqlen, IntegerRange{2, 1 << 20}, "tokens of a window, and positions of the model"),
      key("steps", &C::steps, many, "optimiser steps"),
      key("batch_size", &C::batch_size, few, "windows a step"),
      key("lr", &C::lr, NumberRange{0, 10}, "highest learning rate"),
      key("warmup", &C::warmup, IntegerRange{0, 1'000'000'000}, "steps until it is reached; then it falls as a cosine"),
      key("weight_decay", &C::weight_decay, NumberRange{0, 10}, "of matrices"),
      key("seed", &C::seed, Seed(), "of the first weights and of the windows"),
      key("device", &C::device, devices, "where to compute"),
      key("threads", &C::threads, IntegerRange{0, 4096}, "CPU threads; 0: as many as the machine has"),
      key("dtype", &C::dtype, dtypes, "of the written tensors"),
      key("tie_word_embeddings", &C::tie_word_embeddings, Switch(), "the head shares the token embedding"),
  };
}

const std::vector<TrainKey>& train_keys() {
  static const std::vector<TrainKey> keys = make_keys();
  return keys;
}

const TrainKey& key_called(const std::string& name, const ConfigValue& value) {
  const auto found = std::ranges::find(train_keys(), name, &TrainKey::name);
  if (found != train_keys().end()) return *found;
  std::vector<std::string> names;
  for (const TrainKey& known : train_keys()) names.push_back(known.name);
  fail(ErrorKind::bad_input, value.place(), ": expected a known key, found ", quoted_text(name), "; did you mean ",
       nearest_name(name, names), "?");
}

// Takes every member of the object and notes its key.
void apply(TrainConfig& config, const ConfigValue& object, std::set<std::string>& given) {
  if (!object.json().is_object()) object.reject("an object");
  for (const auto& item : object.json().items()) {
    const ConfigValue value = object.member(item.key());
    key_called(item.key(), value).read(config, value);
    given.insert(item.key());
  }
}

}  // namespace

TrainConfig parse_train_config(const std::string& text, const std::string& name, const std::filesystem::path& folder,
                               const std::vector<std::string>& settings) {
  const ConfigValue file(std::make_shared<const ConfigSource>(ConfigSource{name, text, folder}),
                         parse_json_text(text, name));
  TrainConfig config;
  std::set<std::string> given;
  apply(config, file, given);
  for (const std::string& setting : settings) apply(config, read_setting(setting), given);
  for (const char* needed : {"family", "output_dir", "dataset"})
    require_input(given.contains(needed), name, ": expected the key ", needed, ", found none; add it");
  require_input(!config.dataset.empty(), name, ": dataset: expected at least one file, found none");
  return config;
}

TrainConfig read_train_config(const std::filesystem::path& file, const std::vector<std::string>& settings) {
  constexpr std::int64_t kLargestBytes = 1 << 20;
  return parse_train_config(read_file(file, kLargestBytes), file.string(),
                            std::filesystem::absolute(file).parent_path(), settings);
}

std::string train_config_help() {
  std::string text;
  for (const TrainKey& key : train_keys()) {
    std::string line = "  " + key.name;
    line.resize(23, ' ');
    text += line + key.meaning + " [" + key.allowed + "]\n";
  }
  return text;
}

}  // namespace cbq
