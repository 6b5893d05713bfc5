#include "tools/measure.h"

#include <algorithm>
#include <cmath>

#include "core/progress.h"
#include "models/dataset.h"

namespace cbq {

std::int64_t window_length(const EvalData& data, const ModelConfig& config) {
  constexpr std::int64_t kUsual = 2048;  // of published perplexities
  const std::int64_t seqlen = data.seqlen.value_or(std::min(kUsual, config.max_positions));
  require_input(seqlen <= config.max_positions, "--seqlen: expected at most ", config.max_positions,
                ", the positions of the model, found ", seqlen);
  return seqlen;
}

Windows read_windows(const EvalData& data, const std::filesystem::path& folder, const ModelConfig& config,
                     std::int64_t seqlen) {
  const std::unique_ptr<Tokenizer> tokenizer = Tokenizer::open(folder);
  Windows all;
  for (const std::filesystem::path& file : data.files) {
    const Windows windows =
        eval_windows(token_stream(*tokenizer, read_texts(file), config.vocab), seqlen, data.windows, file);
    all.insert(all.end(), windows.begin(), windows.end());
  }
  return all;
}

std::vector<Tensor> own_states(Context& ctx, const Model& model, const Windows& windows, const std::string& title) {
  Progress progress(stderr, title, model.config().layers * std::int64_t(windows.size()));
  auto result = hidden_states(
      ctx, model, [&](std::int64_t i) { return model.block(i); }, windows,
      [&](std::int64_t done, std::int64_t) { progress.update(done, ""); });
  progress.finish("");
  return result;
}

void require_one_vocabulary(const Model& reference, const Model& model) {
  require_input(reference.config().vocab == model.config().vocab, reference.folder().string(),
                ": expected a reference with the model's vocabulary of ", model.config().vocab, ", found ",
                reference.config().vocab);
}

void require_finite(const Quality& quality, const std::filesystem::path& model) {
  require(std::isfinite(quality.perplexity), model.string(), ": expected a finite perplexity, found ",
          quality.perplexity, "; the weights or the numbers between blocks overflow");
}

nlohmann::ordered_json data_json(const EvalData& data) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const auto& file : data.files) files.push_back(file.string());
  return files.size() == 1 ? files[0] : files;
}

}  // namespace cbq
