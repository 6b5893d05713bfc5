// Trains a small LLaMA or OPT from scratch and writes it as a Hugging Face folder.
#pragma once

#include <cstdio>
#include <deque>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stop_token>
#include <vector>

#include "models/perplexity.h"

namespace cbq {

struct TrainConfig {
  Family family = Family::llama;
  std::filesystem::path output_dir;
  std::vector<std::filesystem::path> dataset, validation;
  std::int64_t vocab = 512, hidden = 128, layers = 4, heads = 4, ffn = 352;
  std::int64_t kv_heads = 0;  // 0: as many as heads
  std::int64_t seqlen = 128;  // tokens of a training window, and positions of the model
  std::int64_t steps = 1000, batch_size = 16;
  double lr = 3e-3;  // highest, after the warm-up; decays to 0 as a cosine
  std::int64_t warmup = 50;
  double weight_decay = 0.1;  // of matrices, as AdamW's
  std::uint64_t seed = 0;
  Device device = Device::cpu;
  int threads = 0;           // of the CPU; 0: as many as the machine has
  DType dtype = DType::f16;  // of the written tensors; training computes in f32
  bool tie_word_embeddings = false;
};

// The architecture that the config asks for. Error{bad_input}: sizes that contradict each other.
ModelConfig model_config(const TrainConfig& config);
// The config.json of that architecture, with the keys that transformers writes.
nlohmann::ordered_json checkpoint_config(const ModelConfig& config);

// A model whose weights are all Parameters, in f32.
class TrainableModel {
 public:
  // Matrices are normal with variance 2 / (5 C) (Nguyen & Salazar 2019, section 3.1), those that add to the residual
  // divided by sqrt(2 L) (Radford et al. 2019, section 2.3); norms are 1, biases 0.
  TrainableModel(Context& ctx, const ModelConfig& config, std::uint64_t seed);
  TrainableModel(const TrainableModel&) = delete;
  TrainableModel& operator=(const TrainableModel&) = delete;

  const ModelConfig& config() const { return config_; }
  // In the order of the checkpoint, by its names.
  std::deque<Parameter>& parameters() { return parameters_; }

  // (1): mean negative log-likelihood of tokens 1 .. T-1 of each window given those before them. The parameters are
  // leaves of the tape.
  Var loss(Tape& tape, const Windows& windows) const;

  // Rounds to the config's dtype and writes all tensors to one file.
  void write_tensors(const std::filesystem::path& file) const;

 private:
  Context& ctx_;
  ModelConfig config_;
  std::deque<Parameter> parameters_;
};

struct TrainingReport {
  std::int64_t parameters = 0, steps = 0;
  std::int64_t tokens = 0;           // predicted in training
  std::vector<double> losses;        // nats a token, per step
  std::optional<double> perplexity;  // of the written folder on the validation files, as `cbq eval` measures it
};

// Makes the vocabulary from the dataset, trains on windows of its token stream that are drawn with the seed, and writes
// config.json, generation_config.json, model.safetensors and the tokenizer's files to output_dir when all is done: the
// folder is as it was until then, and config.json comes last. The same config and the same number of CPU threads give
// the same bytes on the same machine. Errors: bad_input for a config that contradicts itself, texts that are too short,
// an output_dir with other files in it; failure for a loss that is not finite and for a stop that was asked for.
TrainingReport train(Context& ctx, const TrainConfig& config, std::FILE* progress, const std::stop_token& stop = {});

}  // namespace cbq
