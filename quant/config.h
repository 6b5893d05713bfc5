// The configuration of `cbq run`: one struct, every key with its default.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "autograd/optim.h"
#include "quant/quant_block.h"

namespace cbq {

enum class Method { cbq, rtn, gptq };
enum class WindowSchedule { fixed, grow };
enum class CfpPreset { off, paper, msmodelslim };
enum class Export { compressed_tensors, gptq, dense, gguf };

struct LayerOverride {
  std::string match;  // glob over linear names: * any characters, ? one
  std::optional<int> wbits, abits;
  std::optional<std::int64_t> group_size;
  std::optional<bool> sym;
  friend bool operator==(const LayerOverride&, const LayerOverride&) = default;
};

struct RunConfig {
  // what
  std::filesystem::path model, output_dir;
  std::vector<std::filesystem::path> dataset;
  std::int64_t nsamples = 128, seqlen = 2048;
  std::uint64_t seed = 0;
  Device device = Device::cpu;
  int threads = 0;
  Precision precision = Precision::automatic;
  Offload offload = Offload::automatic;
  Method method = Method::cbq;

  // grid
  int wbits = 4, abits = 16, kv_bits = 16;
  std::int64_t group_size = -1;
  bool sym = false, act_sym = true;
  Start start = Start::mse;
  std::vector<LayerOverride> overrides;

  // cross-block reconstruction
  RoundingKind rounding = RoundingKind::lora_ste;
  RoundingStart rounding_start = RoundingStart::nearest;
  std::int64_t rank = 5, window = 2, overlap = 1, epochs = 3, batch_size = 1, heldout = 4;
  WindowSchedule window_schedule = WindowSchedule::fixed;
  double lr = 0;        // of the rounding parameters; 0 takes the kind's own default
  double lr_scale = 0;  // of the step sizes, relative to their start; 0 as above
  double lr_activation = 1e-3;
  std::optional<Schedule> schedule;  // default: cosine, linear for `sign`
  bool learn_scale = true, learn_activation = true;
  double l2 = 1, kl = 1;  // weights of the two distances
  bool homologous = false;
  double lambda_com = 0.01, beta_start = 20, beta_end = 2, anneal_start = 0.2, hard_fraction = 0.1;

  // coarse-to-fine preprocessing
  CfpPreset cfp = CfpPreset::off;
  bool cfp_weights = true, cfp_activations = true;
  double cfp_lambda1 = 1.5, cfp_lambda2 = 1;

  // GPTQ
  bool act_order = true;
  double damping = 0.01;  // share of the mean diagonal of the Hessian

  // results
  std::vector<Export> exports = {Export::compressed_tensors};  // where each goes: quant/export.h
  std::int64_t max_shard_size = 5'000'000'000;                 // bytes of tensors in a file
  struct Eval {
    std::vector<std::filesystem::path> data;
    std::int64_t seqlen = 2048, windows = 0;  // windows = 0: all
    // Continued by the model before and after, for the report.
    std::vector<std::string> prompts = {"Once upon a time", "The first thing to know is"};
    friend bool operator==(const Eval&, const Eval&) = default;
  } eval;

  double rounding_lr() const;
  double scale_lr() const;
  Schedule rounding_schedule() const;
  friend bool operator==(const RunConfig&, const RunConfig&) = default;
};

// Reads FILE and applies `settings` ("key=value", dotted keys reach into objects; values are JSON or plain strings).
// Paths are relative to the file's folder; those in settings to the working directory. Errors (bad_input), each with
// file, line and column or the setting: broken JSON, unknown key (with the nearest name), wrong type, value out of
// range (with the range).
RunConfig read_run_config(const std::filesystem::path& file, const std::vector<std::string>& settings);
// Every key with its value, paths absolute: the config that reproduces the run.
nlohmann::ordered_json to_json(const RunConfig& config);

// The spec of each linear layer of the model after the overrides. Errors (bad_input): a group size that does not divide
// (names the layers), an override that matches nothing, layers of one site with different activation bits, a format of
// `export` that cannot hold them.
std::vector<BlockSpec> block_specs(const RunConfig& config, const ModelConfig& model);

}  // namespace cbq
