#include "quant/streams.h"

namespace cbq {

Stream embed_all(Context& ctx, const Model& model, const Windows& samples) {
  Stream stream;
  for (const std::vector<std::int32_t>& sample : samples) {
    const Tensor ids = from_host<std::int32_t>(ctx, {std::int64_t(sample.size())}, DType::i32, sample);
    stream.push_back(embed(ctx, model.config(), model.outer(), ids, 1, 0).value);
  }
  return stream;
}

void advance(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Sequence& sequence, Stream& stream) {
  for (Tensor& x : stream) x = block_forward(ctx, config, layers, x, sequence).value;
}

}  // namespace cbq
