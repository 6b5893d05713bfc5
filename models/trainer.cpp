#include "models/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "autograd/optim.h"
#include "core/files.h"
#include "core/json.h"
#include "core/progress.h"
#include "core/rng.h"
#include "models/dataset.h"
#include "models/vocabulary.h"

namespace cbq {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char *kConfig = "config.json", *kTensors = "model.safetensors";

// Every file of the result, config.json last: without it no reader takes the folder for a model.
std::vector<std::string> files_of(Family family) {
  std::vector<std::string> files = {kTensors, "generation_config.json", "tokenizer_config.json"};
  if (family == Family::opt)
    files.insert(files.end(), {"vocab.json", "merges.txt"});
  else
    files.emplace_back("tokenizer.model");
  files.emplace_back(kConfig);
  return files;
}

// The files of the result before it is whole: a folder beside the result's that goes away with this object.
class Staging {
 public:
  Staging(const fs::path& result, Family family) : result_(result), files_(files_of(family)) {
    std::error_code error;
    fs::create_directories(result, error);
    require_input(!error, result.string(), ": cannot create the folder: ", error.message());
    // Files of another model, such as a tokenizer of another kind, would be read as part of this one.
    for (const auto& entry : fs::directory_iterator(result))
      require_input(std::ranges::find(files_, entry.path().filename().string()) != files_.end(), result.string(),
                    ": expected an empty folder or an earlier result of this command, found ",
                    quoted_text(entry.path().filename().string()), "; choose another output_dir");
    std::string name = result.string() + ".tmp-XXXXXX";
    require_input(mkdtemp(name.data()) != nullptr, name, ": cannot create the folder; make its parent writable");
    path_ = name;
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }

  const fs::path& path() const { return path_; }
  void move_to_result() const {
    fs::remove(result_ / kConfig);
    for (const std::string& file : files_) fs::rename(path_ / file, result_ / file);
  }

 private:
  fs::path result_, path_;
  std::vector<std::string> files_;
};

std::vector<Texts> read_all(const std::vector<fs::path>& files) {
  std::vector<Texts> all;
  for (const fs::path& file : files) all.push_back(read_texts(file));
  return all;
}

std::vector<std::string> strings(const std::vector<Texts>& all) {
  std::vector<std::string> texts;
  for (const Texts& one : all) texts.insert(texts.end(), one.texts.begin(), one.texts.end());
  return texts;
}

// Windows at random starts, all starts alike.
Windows draw_batch(const std::vector<std::int32_t>& stream, std::int64_t count, std::int64_t tokens, Rng& rng) {
  Windows windows;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto begin = stream.begin() + std::ptrdiff_t(rng.below(std::uint64_t(std::ssize(stream) - tokens + 1)));
    windows.emplace_back(begin, begin + tokens);
  }
  return windows;
}

std::vector<ParameterGroup> parameter_groups(TrainableModel& model, const TrainConfig& config) {
  ParameterGroup matrices{{}, config.lr}, vectors{{}, config.lr};
  matrices.weight_decay = config.weight_decay;
  for (Parameter& parameter : model.parameters())
    (parameter.value.shape().rank() > 1 ? matrices : vectors).parameters.push_back(&parameter);
  return {matrices, vectors};
}

std::vector<double> run_steps(Context& ctx, TrainableModel& model, const TrainConfig& config,
                              const std::vector<std::int32_t>& stream, std::FILE* out, const std::stop_token& stop) {
  Optimizer optimizer(ctx, parameter_groups(model, config), config.steps, config.warmup);
  // Not the generator of the weights: the architecture must not decide which windows are drawn.
  Rng rng(config.seed + 1);
  Progress progress(out, "train", config.steps);
  std::vector<double> losses;
  for (std::int64_t step = 0; step < config.steps; ++step) {
    require(!stop.stop_requested(), "train: interrupted after ", step, " of ", config.steps,
            " steps; nothing was written, the same command starts again");
    Tape tape(ctx);
    // One token more than positions: the last one is only predicted.
    const Var loss = model.loss(tape, draw_batch(stream, config.batch_size, config.seqlen + 1, rng));
    losses.push_back(to_host<double>(ctx, loss.value)[0]);
    require(std::isfinite(losses.back()), "train: expected a finite loss, found ", losses.back(), " in step ", step + 1,
            "; use a smaller lr or a longer warmup");
    tape.backward(loss);
    optimizer.step();
    progress.update(step + 1, concat("loss ", losses.back()));
  }
  progress.finish(losses.empty() ? "" : concat("loss ", losses.back()));
  return losses;
}

void write_configs(const fs::path& folder, const ModelConfig& config) {
  ordered_json generation = {{"bos_token_id", config.bos.value()}, {"eos_token_id", config.eos.at(0)}};
  if (config.family == Family::opt) generation["pad_token_id"] = 1;
  write_file(folder / "generation_config.json", generation.dump(2) + "\n");
  write_file(folder / kConfig, checkpoint_config(config).dump(2) + "\n");
}

}  // namespace

TrainingReport train(Context& ctx, const TrainConfig& config, std::FILE* progress, const std::stop_token& stop) {
  const ModelConfig architecture = model_config(config);
  const Staging staging(config.output_dir, config.family);
  const std::vector<Texts> texts = read_all(config.dataset);
  write_vocabulary(staging.path(), config.family, strings(texts), config.vocab, config.seqlen);

  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(staging.path());
  std::vector<std::int32_t> stream;
  for (const Texts& part : texts) {
    const std::vector<std::int32_t> ids = token_stream(*tokenizer, part, config.vocab);
    stream.insert(stream.end(), ids.begin(), ids.end());
  }
  require_input(std::ssize(stream) > config.seqlen, "dataset: expected more than ", config.seqlen,
                " tokens, one window of seqlen, found ", stream.size(), "; use more text or a smaller seqlen");
  Windows validation;
  for (const fs::path& file : config.validation) {
    const auto ids = token_stream(*tokenizer, read_texts(file), config.vocab);
    for (auto& window : eval_windows(ids, config.seqlen, 0, file)) validation.push_back(std::move(window));
  }

  TrainableModel model(ctx, architecture, config.seed);
  TrainingReport report;
  report.parameters = parameter_count(architecture);
  report.steps = config.steps;
  report.tokens = config.steps * config.batch_size * config.seqlen;
  report.losses = run_steps(ctx, model, config, stream, progress, stop);
  model.write_tensors(staging.path() / kTensors);
  write_configs(staging.path(), architecture);
  if (!validation.empty()) report.perplexity = evaluate(ctx, Model(ctx, staging.path()), validation).perplexity;
  staging.move_to_result();
  return report;
}

}  // namespace cbq
