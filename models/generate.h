// Text from a model, token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/rng.h"
#include "models/model.h"
#include "models/tokenizer/tokenizer.h"

namespace cbq {

struct GenerationOptions {
  std::int64_t max_tokens = 128;  // new ones; the text also ends at the model's last position
  double temperature = 0;         // logits are divided by it; 0: always the likeliest token (greedy)
  std::int64_t top_k = 0;         // only the k likeliest tokens are drawn; 0: all
  std::uint64_t seed = 0;
};

// The token after `logits` (V): the likeliest, lowest id among equals, at temperature 0; else drawn with the
// probabilities softmax(logits / temperature) over the top_k likeliest.
std::int32_t sample_token(std::span<const float> logits, const GenerationOptions& options, Rng& rng);

// All blocks of a model in memory with the keys and values of one text.
class Generator {
 public:
  // Loads all blocks, the model's own or those of `blocks`. The model must outlive this object.
  Generator(Context& ctx, const Model& model);
  Generator(Context& ctx, const Model& model, const BlockSource& blocks);
  const Model& model() const { return model_; }

  // Forgets the text.
  void restart();

  // Logits (V) behind the last of `ids`, which continue the text; at least one.
  std::vector<float> next_logits(std::span<const std::int32_t> ids);
  // Positions in use, and how many the model has.
  std::int64_t tokens() const { return tokens_; }
  std::int64_t max_tokens() const;

 private:
  Context& ctx_;
  const Model& model_;
  std::vector<std::unique_ptr<BlockLayers>> blocks_;
  std::vector<KvCache> caches_;
  std::int64_t tokens_ = 0;
};

// Continues BOS and `prompt`, handing each piece of new text to `on_text` as soon as its characters are complete. Ends
// before an end-of-text token of config.json or the tokenizer. Returns the new text. Error{bad_input}: options out of
// range, a prompt that is empty or leaves no position, a tokenizer that does not belong to the model.
std::string generate(Context& ctx, const Model& model, const Tokenizer& tokenizer, std::string_view prompt,
                     const GenerationOptions& options, const std::function<void(std::string_view)>& on_text);
// The same with blocks in memory already; what the generator held is forgotten first.
std::string generate(Generator& generator, const Tokenizer& tokenizer, std::string_view prompt,
                     const GenerationOptions& options, const std::function<void(std::string_view)>& on_text);

}  // namespace cbq
