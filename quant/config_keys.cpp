#include "quant/config_keys.h"

#include <algorithm>
#include <type_traits>

#include "core/json.h"
#include "quant/config_fields.h"
#include "quant/config_structured_keys.h"

namespace cbq {

namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kManySamples = 1'000'000, kLongestSequence = 1 << 20, kManyTimes = 100'000;

// A field of RunConfig or of its part `eval`.
template <class Config, class Owner, class T>
auto& field(Config& config, T Owner::*member) {
  if constexpr (std::is_same_v<Owner, RunConfig::Eval>)
    return config.eval.*member;
  else
    return config.*member;
}

// A key whose JSON is the value itself.
template <class Owner, class T, class Rule>
ConfigKey plain(std::string name, T Owner::*member, Rule rule, std::string meaning) {
  return {std::move(name), rule.allowed(), std::move(meaning),
          [=](RunConfig& config, const ConfigValue& value) { field(config, member) = T(rule.read(value)); },
          [=](const RunConfig& config) { return ordered_json(field(config, member)); }};
}

// A key whose value is written by the name of a choice.
template <class T>
ConfigKey choice(std::string name, T RunConfig::*member, Choices<T> choices, std::string meaning) {
  return {std::move(name), choices.allowed(), std::move(meaning),
          [=](RunConfig& config, const ConfigValue& value) { config.*member = choices.read(value); },
          [=](const RunConfig& config) { return ordered_json(choices.name_of(config.*member)); }};
}

std::string written(const std::filesystem::path& path) {
  return path.empty() ? "" : std::filesystem::absolute(path).string();
}

ConfigKey path(std::string name, std::filesystem::path RunConfig::*member, std::string meaning) {
  return {std::move(name), Path().allowed(), std::move(meaning),
          [=](RunConfig& config, const ConfigValue& value) { config.*member = Path().read(value); },
          [=](const RunConfig& config) { return ordered_json(written(config.*member)); }};
}

template <class Owner>
ConfigKey paths(std::string name, std::vector<std::filesystem::path> Owner::*member, std::string meaning) {
  const auto write = [=](const RunConfig& config) {
    ordered_json list = ordered_json::array();
    for (const auto& file : field(config, member)) list.push_back(written(file));
    return list;
  };
  return {std::move(name), Paths().allowed(), std::move(meaning),
          [=](RunConfig& config, const ConfigValue& value) { field(config, member) = Paths().read(value); }, write};
}

const Choices<Method>& methods() {
  static const Choices<Method> choices{{{"cbq", Method::cbq}, {"rtn", Method::rtn}, {"gptq", Method::gptq}}};
  return choices;
}

std::vector<ConfigKey> make_keys() {
  using C = RunConfig;
  const Choices<Device> devices{{{"cpu", Device::cpu}, {"cuda", Device::cuda}}};
  const Choices<Precision> precisions{
      {{"auto", Precision::automatic}, {"float32", Precision::f32}, {"bfloat16", Precision::bf16}}};
  const Choices<Offload> offloads{
      {{"auto", Offload::automatic}, {"device", Offload::device}, {"host", Offload::host}, {"disk", Offload::disk}}};
  const Choices<Start> starts{{{"mse", Start::mse}, {"min-max", Start::min_max}}};
  const Choices<RoundingKind> roundings{{{"nearest", RoundingKind::nearest},
                                         {"lora", RoundingKind::lora},
                                         {"lora_ste", RoundingKind::lora_ste},
                                         {"dense", RoundingKind::dense},
                                         {"sign", RoundingKind::sign},
                                         {"weights", RoundingKind::weights}}};
  const Choices<RoundingStart> rounding_starts{{{"nearest", RoundingStart::nearest}, {"gptq", RoundingStart::gptq}}};
  const Choices<WindowSchedule> windows{{{"fixed", WindowSchedule::fixed}, {"grow", WindowSchedule::grow}}};
  const Choices<CfpPreset> presets{
      {{"off", CfpPreset::off}, {"paper", CfpPreset::paper}, {"msmodelslim", CfpPreset::msmodelslim}}};
  const IntegerRange sequence{2, kLongestSequence};
  const NumberRange rate{0, 10}, weight{0, 1e6}, share{0, 1}, exponent{1.01, 1000};
  return {
      path("model", &C::model, "folder of the checkpoint; always needed"),
      path("output_dir", &C::output_dir, "folder of the result; always needed"),
      paths("dataset", &C::dataset, "calibration text: .txt, .raw, .json, .jsonl, each also .gz"),
      plain("nsamples", &C::nsamples, IntegerRange{1, kManySamples}, "calibration samples"),
      plain("seqlen", &C::seqlen, sequence, "tokens of a sample"),
      plain("seed", &C::seed, Seed(), "of the samples, their order and the start of the learned matrices"),
      choice("device", &C::device, devices, "where to compute"),
      plain("threads", &C::threads, IntegerRange{0, 4096}, "CPU threads; 0: as many as the machine has"),
      choice("precision", &C::precision, precisions, "of weights and activations; auto: float32, on a GPU bfloat16"),
      choice("offload", &C::offload, offloads, "where the activation streams are; auto: on the device if they fit"),
      choice("method", &C::method, methods(), "cross-block reconstruction, round-to-nearest or GPTQ"),
      plain("wbits", &C::wbits, weight_bits(), "bits of a weight"),
      plain("abits", &C::abits, activation_bits(), "bits of what the linear layers read"),
      plain("kv_bits", &C::kv_bits, activation_bits(), "bits of the keys and values in the cache"),
      plain("group_size", &C::group_size, GroupSize(), "columns that share a step size"),
      plain("sym", &C::sym, Switch(), "symmetric grids for weights"),
      plain("act_sym", &C::act_sym, Switch(), "symmetric grids for activations"),
      choice("start", &C::start, starts, "start of the weight grid: least squared error, or the whole range"),
      overrides_key(),
      choice("rounding", &C::rounding, roundings, "what is learned of the rounding"),
      choice("rounding_start", &C::rounding_start, rounding_starts, "what it starts from; gptq: from GPTQ's integers"),
      plain("rank", &C::rank, IntegerRange{1, 4096}, "of the rounding matrices of lora and lora_ste"),
      plain("window", &C::window, IntegerRange{1, 1024}, "blocks learned together"),
      plain("overlap", &C::overlap, IntegerRange{0, 1023}, "blocks a window shares with the one before; below window"),
      choice("window_schedule", &C::window_schedule, windows, "all windows alike, or growing from the first block"),
      plain("epochs", &C::epochs, IntegerRange{1, kManyTimes}, "passes over the samples in each window"),
      plain("batch_size", &C::batch_size, IntegerRange{1, 4096}, "samples a step"),
      plain("heldout", &C::heldout, IntegerRange{0, kManySamples}, "samples beyond nsamples, never trained on"),
      plain("lr", &C::lr, rate, "learning rate of the rounding; 0: the default of its kind"),
      plain("lr_scale", &C::lr_scale, rate, "learning rate of the step sizes, relative; 0: as above"),
      plain("lr_activation", &C::lr_activation, rate, "learning rate of the activation factors"),
      schedule_key(),
      plain("learn_scale", &C::learn_scale, Switch(), "learn the step sizes of weights"),
      plain("learn_activation", &C::learn_activation, Switch(), "learn the range factors of activations"),
      plain("l2", &C::l2, weight, "weight of the squared distance in the loss"),
      plain("kl", &C::kl, weight, "weight of the KL divergence in the loss"),
      plain("homologous", &C::homologous, Switch(), "add the distance to full precision on the same input"),
      plain("lambda_com", &C::lambda_com, weight, "weight of the rounding regulariser (lora, dense)"),
      plain("beta_start", &C::beta_start, exponent, "its exponent at the start"),
      plain("beta_end", &C::beta_end, exponent, "its exponent at the end; at most beta_start"),
      plain("anneal_start", &C::anneal_start, share, "share of the steps before it acts"),
      plain("hard_fraction", &C::hard_fraction, share, "share of the steps that run hardened, at the end"),
      choice("cfp", &C::cfp, presets, "coarse-to-fine preprocessing of outliers"),
      plain("cfp_weights", &C::cfp_weights, Switch(), "cfp truncates outlying weights"),
      plain("cfp_activations", &C::cfp_activations, Switch(), "cfp scales outlying channels"),
      plain("cfp_lambda1", &C::cfp_lambda1, NumberRange{0, 1000}, "interquartile ranges above Q3 where outliers begin"),
      plain("cfp_lambda2", &C::cfp_lambda2, NumberRange{0, 1000}, "weight of the variance within the kept values"),
      plain("act_order", &C::act_order, Switch(), "gptq: columns with large activations first"),
      plain("damping", &C::damping, share, "gptq: share of the Hessian's mean diagonal that is added to it"),
      exports_key(),
      plain("max_shard_size", &C::max_shard_size, ByteSize(), "most bytes of tensors in a file of the result"),
      paths("eval.data", &RunConfig::Eval::data, "text to measure perplexity on; none: no evaluation"),
      plain("eval.seqlen", &RunConfig::Eval::seqlen, sequence, "tokens of a window; seqlen where absent"),
      plain("eval.windows", &RunConfig::Eval::windows, IntegerRange{0, kManySamples}, "most windows a file; 0: all"),
      plain("eval.prompts", &RunConfig::Eval::prompts, Texts(), "continued before and after, for the report"),
  };
}

}  // namespace

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = make_keys();
  return keys;
}

const std::vector<KeyAlias>& key_aliases() {
  static const std::vector<KeyAlias> aliases = {
      {"save_dir", "output_dir"},    {"bits", "wbits"},
      {"w_bits", "wbits"},           {"a_bits", "abits"},
      {"w_groupsize", "group_size"}, {"groupsize", "group_size"},
      {"calib_dataset", "dataset"},  {"n_samples", "nsamples"},
      {"num_samples", "nsamples"},   {"seq_len", "seqlen"},
  };
  return aliases;
}

std::string config_help() {
  const RunConfig defaults;
  std::string text;
  for (const ConfigKey& key : config_keys()) {
    std::string line = "  " + key.name;
    line.resize(std::max<std::size_t>(line.size() + 1, 19), ' ');
    line += key.write(defaults).dump();
    line.resize(std::max<std::size_t>(line.size() + 1, 41), ' ');
    text += line + key.meaning + " [" + key.allowed + "]\n";
  }
  return text;
}

ordered_json to_json(const RunConfig& config) {
  ordered_json result;
  for (const ConfigKey& key : config_keys()) {
    const std::size_t dot = key.name.find('.');
    ordered_json& owner = dot == std::string::npos ? result : result[key.name.substr(0, dot)];
    owner[dot == std::string::npos ? key.name : key.name.substr(dot + 1)] = key.write(config);
  }
  return result;
}

}  // namespace cbq
