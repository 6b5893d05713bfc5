#include "quant/streams.h"

#include "core/kernels.h"

namespace cbq {

Stream::Stream(Context& ctx, std::int64_t count, Shape sample, DType dtype, StreamPlace place)
    : count_(count), sample_(sample), dtype_(dtype), place_(std::move(place)) {
  require(place_.offload != Offload::automatic, "stream: its place was not chosen");
  const std::int64_t bytes = count_ * sample_bytes();
  if (place_.offload == Offload::host) host_ = std::make_unique<Storage>(ctx.host_allocator, bytes);
  if (place_.offload == Offload::disk) file_ = std::make_unique<ScratchFile>(place_.folder, bytes);
  for (std::int64_t i = 0; place_.offload == Offload::device && i < count_; ++i)
    tensors_.emplace_back(ctx, sample_, dtype_);
}

std::byte* Stream::kept(std::int64_t i) const {
  std::byte* first = file_ ? file_->bytes().data() : static_cast<std::byte*>(host_->data());
  return first + i * sample_bytes();
}

Tensor Stream::load(Context& ctx, std::int64_t i) const {
  if (place_.offload == Offload::device) return tensors_[std::size_t(i)];
  const Tensor x(ctx, sample_, dtype_);
  load(ctx, i, x);
  return x;
}

void Stream::load(Context& ctx, std::int64_t i, const Tensor& to) const {
  require(to.shape() == sample_ && to.dtype() == dtype_ && to.is_contiguous(), "stream: expected room for a sample ",
          sample_, " ", dtype_, ", got ", to.shape(), " ", to.dtype());
  switch (place_.offload) {
    case Offload::host: return ctx.kernels->upload(ctx, to.data(), kept(i), sample_bytes());
    case Offload::disk: return ctx.kernels->copy_from_host(ctx, to.data(), kept(i), sample_bytes());
    default: return ctx.kernels->convert(ctx, to, tensors_[std::size_t(i)]);
  }
}

void Stream::store(Context& ctx, std::int64_t i, const Tensor& x) {
  require(x.shape() == sample_ && x.dtype() == dtype_, "stream: expected a sample ", sample_, " ", dtype_, ", got ",
          x.shape(), " ", x.dtype());
  if (place_.offload == Offload::device) {
    tensors_[std::size_t(i)] = x;
    return;
  }
  const Tensor whole = contiguous(ctx, x);
  if (place_.offload == Offload::host)
    ctx.kernels->download(ctx, kept(i), whole.data(), sample_bytes());
  else
    ctx.kernels->copy_to_host(ctx, kept(i), whole.data(), sample_bytes());
}

Stream Stream::copy(Context& ctx) const {
  Stream other;
  if (place_.offload != Offload::device) other = Stream(ctx, count_, sample_, dtype_, place_);
  other.count_ = count_, other.sample_ = sample_, other.dtype_ = dtype_, other.place_ = place_;
  other.tensors_ = tensors_;  // store() replaces tensors and never changes one
  for (std::int64_t i = 0; place_.offload != Offload::device && i < count_; ++i) other.store(ctx, i, load(ctx, i));
  return other;
}

Stream embed_all(Context& ctx, const Model& model, const Windows& samples, const StreamPlace& place) {
  if (samples.empty()) return {};
  const std::int64_t tokens = std::int64_t(samples[0].size());
  Stream stream(ctx, std::int64_t(samples.size()), {tokens, model.config().hidden}, model.compute(), place);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const Tensor ids = from_host<std::int32_t>(ctx, {tokens}, DType::i32, samples[i]);
    stream.store(ctx, std::int64_t(i),
                 ops::cast(ctx, embed(ctx, model.config(), model.outer(), ids, 1, 0), model.compute()).value);
  }
  return stream;
}

void advance(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Sequence& sequence, Stream& stream) {
  for (std::int64_t i = 0; i < stream.size(); ++i)
    stream.store(ctx, i, block_forward(ctx, config, layers, stream.load(ctx, i), sequence).value);
}

}  // namespace cbq
