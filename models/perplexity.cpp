#include "models/perplexity.h"

#include <algorithm>
#include <cmath>

#include "core/kernels.h"

namespace cbq {
namespace {

// Rows of one forward: enough for the GEMMs to run at full speed, few enough for the activations to stay small.
constexpr std::int64_t kForwardRows = 2048;
// Logits made at a time, in elements.
constexpr std::int64_t kLogits = 1 << 22;

std::int64_t tokens_of(const Windows& windows) {
  require(!windows.empty() && windows[0].size() >= 2, "perplexity: expected windows of at least 2 tokens");
  for (const auto& window : windows)
    require(window.size() == windows[0].size(), "perplexity: expected windows of one length, got ", windows[0].size(),
            " and ", window.size());
  return std::int64_t(windows[0].size());
}

Tensor ids_of(Context& ctx, const Windows& windows, std::int64_t begin, std::int64_t end, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::int64_t w = begin; w < end; ++w)
    for (const std::int32_t id : windows[std::size_t(w)]) {
      require(id >= 0 && id < vocab, "perplexity: token id ", id, " is not in the vocabulary of ", vocab);
      ids.push_back(id);
    }
  return from_host<std::int32_t>(ctx, {std::int64_t(ids.size())}, DType::i32, ids);
}

double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double v : values) total += v;
  return total;
}

// Sums over rows of one window.
struct WindowSums {
  double loss = 0, kl = 0, equal = 0;
};

// The logits of rows [begin, end) of a window's hidden states.
Tensor logits_of(Context& ctx, const Model& model, const Tensor& hidden, std::int64_t begin, std::int64_t end) {
  const Var x = final_hidden(ctx, model.config(), model.outer(), hidden.slice(0, begin, end));
  return logits(ctx, model.outer(), x.value);
}

double loss_of(Context& ctx, const Tensor& logits, const Tensor& targets, DType dtype) {
  const Tensor loss(ctx, {logits.rows()}, dtype);
  ctx.kernels->cross_entropy_forward(ctx, loss, logits, targets);
  return sum(to_host<double>(ctx, loss));
}

double kl_of(Context& ctx, const Tensor& reference, const Tensor& logits, DType dtype) {
  const Tensor kl(ctx, {logits.rows()}, dtype);
  ctx.kernels->kl_forward(ctx, kl, reference, logits);
  return sum(to_host<double>(ctx, kl));
}

double equal_rows(Context& ctx, const Tensor& a, const Tensor& b) {
  const Tensor a_best(ctx, {a.rows()}, DType::i32), b_best(ctx, {b.rows()}, DType::i32);
  ctx.kernels->argmax_rows(ctx, a_best, a);
  ctx.kernels->argmax_rows(ctx, b_best, b);
  const auto a_index = to_host<std::int32_t>(ctx, a_best), b_index = to_host<std::int32_t>(ctx, b_best);
  double equal = 0;
  for (std::size_t i = 0; i < a_index.size(); ++i) equal += a_index[i] == b_index[i];
  return equal;
}

}  // namespace

HiddenStates::HiddenStates(Context& ctx, const Model& model, const Windows& windows)
    : ctx_(ctx), config_(model.config()), tokens_(tokens_of(windows)) {
  const std::int64_t count = std::ssize(windows), batch = std::max<std::int64_t>(1, kForwardRows / tokens_);
  sequence_ = make_sequence(ctx, config_, batch, 0, tokens_, model.compute());
  for (std::int64_t begin = 0; begin < count; begin += batch) {
    const std::int64_t end = std::min(count, begin + batch);
    const Tensor ids = ids_of(ctx, windows, begin, end, config_.vocab);
    groups_.push_back(embed(ctx, config_, model.outer(), ids, end - begin, 0).value);
  }
}

void HiddenStates::advance(BlockLayers& block, const std::function<void(std::int64_t windows)>& done) {
  for (Tensor& x : groups_) {
    sequence_.batch = x.rows() / tokens_;
    x = block_forward(ctx_, config_, block, x, sequence_).value;
    if (done) done(sequence_.batch);
  }
}

std::vector<Tensor> HiddenStates::windows() const {
  std::vector<Tensor> hidden;
  for (const Tensor& x : groups_)
    for (std::int64_t row = 0; row < x.rows(); row += tokens_) hidden.push_back(x.slice(0, row, row + tokens_));
  return hidden;
}

std::vector<Tensor> hidden_states(Context& ctx, const Model& model, const BlockSource& blocks, const Windows& windows,
                                  const EvalProgress& progress) {
  HiddenStates states(ctx, model, windows);
  const std::int64_t layers = model.config().layers, total = layers * std::ssize(windows);
  std::int64_t done = 0;
  for (std::int64_t i = 0; i < layers; ++i)
    states.advance(*blocks(i), [&](std::int64_t count) {
      done += count;
      if (progress) progress(done, total);
    });
  return states.windows();
}

Quality measure(Context& ctx, const Model& model, const std::vector<Tensor>& hidden, const Windows& windows,
                const Model* reference_model, const std::vector<Tensor>* reference) {
  const std::int64_t tokens = tokens_of(windows), vocab = model.config().vocab;
  require(hidden.size() == windows.size() && (!reference || reference->size() == windows.size()),
          "measure: expected the hidden states of ", windows.size(), " windows");
  require(bool(reference_model) == bool(reference), "measure: a reference is a model and its hidden states");
  if (reference)
    require_input(reference_model->config().vocab == vocab, model.folder().string(), ": vocab_size ", vocab,
                  " differs from the reference's ", reference_model->config().vocab, "; the models cannot be compared");
  const DType dtype = statistics_dtype(model.compute());
  const std::int64_t chunk = std::max<std::int64_t>(1, kLogits / vocab);
  double loss = 0, kl = 0, equal = 0;
  for (std::size_t w = 0; w < windows.size(); ++w) {
    std::vector<std::int32_t> shifted(windows[w].begin() + 1, windows[w].end());
    shifted.push_back(-1);  // the last token has no target
    const Tensor targets = from_host<std::int32_t>(ctx, {tokens}, DType::i32, shifted);
    WindowSums sums;
    for (std::int64_t begin = 0; begin < tokens; begin += chunk) {
      const std::int64_t end = std::min(tokens, begin + chunk);
      const Tensor rows = logits_of(ctx, model, hidden[w], begin, end);
      sums.loss += loss_of(ctx, rows, targets.slice(0, begin, end), dtype);
      if (!reference) continue;
      const Tensor expected = logits_of(ctx, *reference_model, (*reference)[w], begin, end);
      sums.kl += kl_of(ctx, expected, rows, dtype);
      sums.equal += equal_rows(ctx, expected, rows);
    }
    loss += sums.loss / double(tokens - 1);
    kl += sums.kl;
    equal += sums.equal;
  }
  const auto total = std::int64_t(windows.size()) * tokens;
  Quality quality{std::exp(loss / double(windows.size())), total, std::nullopt, std::nullopt};
  if (reference) {
    quality.kl = kl / double(total);
    quality.top1 = equal / double(total);
  }
  return quality;
}

Quality evaluate(Context& ctx, const Model& model, const Windows& windows, const EvalProgress& progress) {
  const BlockSource blocks = [&](std::int64_t i) { return model.block(i); };
  return measure(ctx, model, hidden_states(ctx, model, blocks, windows, progress), windows);
}

}  // namespace cbq
