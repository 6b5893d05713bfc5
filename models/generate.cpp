#include "models/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace cbq {
namespace {

void check(const GenerationOptions& options) {
  require_input(options.max_tokens >= 1, "max_tokens: expected at least 1, found ", options.max_tokens);
  require_input(std::isfinite(options.temperature) && options.temperature >= 0,
                "temperature: expected 0 or a positive number, found ", options.temperature);
  require_input(options.top_k >= 0, "top_k: expected 0 or a positive number, found ", options.top_k);
}

std::vector<std::int32_t> prompt_ids(const Model& model, const Tokenizer& tokenizer, std::string_view prompt) {
  const std::int64_t vocab = model.config().vocab;
  require_input(tokenizer.vocab_size() <= vocab, model.folder().string(), ": the tokenizer has ids up to ",
                tokenizer.vocab_size() - 1, ", vocab_size is ", vocab, "; it belongs to another model");
  std::vector<std::int32_t> ids = tokenizer.encode(prompt);
  if (tokenizer.bos()) ids.insert(ids.begin(), *tokenizer.bos());
  require_input(!ids.empty(), "prompt: expected text, found none");
  return ids;
}

// Turns tokens into text as they come. A character can take several tokens: until the last one, decoding ends in
// U+FFFD.
class TextStream {
 public:
  TextStream(const Tokenizer& tokenizer, std::vector<std::int32_t> context)
      : tokenizer_(tokenizer), ids_(std::move(context)), shown_(tokenizer.decode(ids_)) {}

  // The text that token `id` completes; empty when a character is still open.
  std::string push(std::int32_t id) {
    constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
    ids_.push_back(id);
    return tokenizer_.decode(ids_).ends_with(kReplacement) ? std::string() : take();
  }

  // What is left, complete or not. Decoding starts at the last piece, so that a step costs the same however long the
  // text is; that piece is kept because the first token of a text may be decoded without its space.
  std::string take() {
    const std::string text = tokenizer_.decode(ids_);
    std::string fresh = text.size() > shown_.size() ? text.substr(shown_.size()) : std::string();
    ids_.erase(ids_.begin(), ids_.begin() + begin_of_new_);
    begin_of_new_ = std::ssize(ids_);
    shown_ = tokenizer_.decode(ids_);
    return fresh;
  }

 private:
  const Tokenizer& tokenizer_;
  std::vector<std::int32_t> ids_;  // the piece shown last, then tokens not shown yet
  std::ptrdiff_t begin_of_new_ = std::ssize(ids_);
  std::string shown_;  // the text of the first begin_of_new_ ids
};

}  // namespace

std::int32_t sample_token(std::span<const float> logits, const GenerationOptions& options, Rng& rng) {
  require(!logits.empty(), "sample_token: expected logits, got none");
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[std::size_t(a)], y = logits[std::size_t(b)];
    return x > y || (x == y && a < b);
  };
  if (options.temperature == 0) return *std::min_element(order.begin(), order.end(), likelier);
  if (options.top_k > 0 && options.top_k < std::ssize(order)) {
    std::nth_element(order.begin(), order.begin() + options.top_k, order.end(), likelier);
    order.resize(std::size_t(options.top_k));
    std::sort(order.begin(), order.end());  // nth_element leaves an order of its own; the draw must not depend on it
  }
  double largest = -INFINITY, total = 0;
  for (const std::int32_t id : order) largest = std::max(largest, double(logits[std::size_t(id)]));
  std::vector<double> sums;
  for (const std::int32_t id : order)
    sums.push_back(total += std::exp((double(logits[std::size_t(id)]) - largest) / options.temperature));
  const auto drawn = std::upper_bound(sums.begin(), sums.end(), rng.uniform() * total) - sums.begin();
  return order[std::size_t(std::min(drawn, std::ssize(order) - 1))];
}

Generator::Generator(Context& ctx, const Model& model)
    : Generator(ctx, model, [&](std::int64_t i) { return model.block(i); }) {}

Generator::Generator(Context& ctx, const Model& model, const BlockSource& blocks) : ctx_(ctx), model_(model) {
  for (std::int64_t i = 0; i < model.config().layers; ++i) blocks_.push_back(blocks(i));
  restart();
}

void Generator::restart() {
  caches_.assign(blocks_.size(), KvCache());
  tokens_ = 0;
}

std::int64_t Generator::max_tokens() const {
  const ModelConfig& config = model_.config();
  return std::min(config.max_positions, config.sliding_window.value_or(config.max_positions));
}

std::vector<float> Generator::next_logits(std::span<const std::int32_t> ids) {
  const ModelConfig& config = model_.config();
  const std::int64_t count = std::ssize(ids);
  Sequence sequence = make_sequence(ctx_, config, 1, tokens_, count, model_.compute());
  for (const std::int32_t id : ids)
    require(id >= 0 && id < config.vocab, "next_logits: token id ", id, " is not in the vocabulary of ", config.vocab);
  const Tensor device_ids = from_host<std::int32_t>(ctx_, {count}, DType::i32, ids);
  Var x = embed(ctx_, config, model_.outer(), device_ids, 1, tokens_);
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    sequence.cache = &caches_[i];
    x = block_forward(ctx_, config, *blocks_[i], x, sequence);
  }
  tokens_ += count;
  const Var last = final_hidden(ctx_, config, model_.outer(), x.value.slice(0, count - 1, count));
  return to_host<float>(ctx_, logits(ctx_, model_.outer(), last.value));
}

std::string generate(Context& ctx, const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                     const GenerationOptions& options, const std::function<void(std::string_view)>& on_text) {
  Generator generator(ctx, model);
  return generate(generator, tokenizer, prompt, options, on_text);
}

std::string generate(Generator& generator, const Tokenizer& tokenizer, std::string_view prompt,
                     const GenerationOptions& options, const std::function<void(std::string_view)>& on_text) {
  check(options);
  const Model& model = generator.model();
  std::vector<std::int32_t> ids = prompt_ids(model, tokenizer, prompt);
  generator.restart();
  require_input(std::ssize(ids) < generator.max_tokens(), "prompt: ", ids.size(),
                " tokens leave no room, the model has ", generator.max_tokens(), " positions; use a shorter one");
  std::vector<std::int32_t> ends = model.config().eos;
  if (tokenizer.eos()) ends.push_back(*tokenizer.eos());
  Rng rng(options.seed);
  TextStream stream(tokenizer, ids);
  std::string text;
  const auto show = [&](const std::string& fresh) {
    text += fresh;
    if (!fresh.empty() && on_text) on_text(fresh);
  };
  for (std::int64_t n = 0; n < options.max_tokens && generator.tokens() + std::ssize(ids) <= generator.max_tokens();
       ++n) {
    const std::vector<float> scores = generator.next_logits(ids);  // those of padding ids at the end are left out
    const auto known = std::span(scores).first(std::size_t(tokenizer.vocab_size()));
    const std::int32_t id = sample_token(known, options, rng);
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) break;
    show(stream.push(id));
    ids.assign(1, id);
  }
  show(stream.take());
  return text;
}

}  // namespace cbq
