// The activation streams of the method: what the blocks to come will read, for every calibration sample.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <vector>

#include "core/files.h"
#include "models/perplexity.h"
#include "quant/spec.h"

namespace cbq {

struct StreamPlace {
  Offload offload = Offload::device;  // not automatic
  std::filesystem::path folder = {};  // of disk: the files there have no name and vanish with the process
};

// One (T, C) tensor a sample.
class Stream {
 public:
  Stream() = default;  // of no samples
  // Contents undefined.
  Stream(Context& ctx, std::int64_t count, Shape sample, DType dtype, StreamPlace place);
  Stream(Stream&&) = default;
  Stream& operator=(Stream&&) = default;

  std::int64_t size() const { return count_; }
  const Shape& sample() const { return sample_; }
  DType dtype() const { return dtype_; }
  // Sample i on the device: the kept tensor itself, or a copy of one that lives elsewhere.
  Tensor load(Context& ctx, std::int64_t i) const;
  // The same into a contiguous tensor of its shape.
  void load(Context& ctx, std::int64_t i, const Tensor& to) const;
  void store(Context& ctx, std::int64_t i, const Tensor& x);
  // The same samples in the same kind of place.
  Stream copy(Context& ctx) const;

 private:
  std::byte* kept(std::int64_t i) const;  // of host and disk
  std::int64_t sample_bytes() const { return sample_.count() * size_of(dtype_); }

  std::int64_t count_ = 0;
  Shape sample_;
  DType dtype_ = DType::f32;
  StreamPlace place_;
  std::vector<Tensor> tensors_;        // of device
  std::unique_ptr<Storage> host_;      // of host
  std::unique_ptr<ScratchFile> file_;  // of disk
};

// The embeddings of all samples.
Stream embed_all(Context& ctx, const Model& model, const Windows& samples, const StreamPlace& place);
// Replaces every sample x by block(x); nothing is recorded. `layers` may observe what passes.
void advance(Context& ctx, const ModelConfig& config, BlockLayers& layers, const Sequence& sequence, Stream& stream);

}  // namespace cbq
