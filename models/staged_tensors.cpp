#include "models/staged_tensors.h"

#include <algorithm>
#include <cstring>

namespace cbq {
namespace {

constexpr std::size_t kChunk = 8 << 20;      // bytes between two looks at a stop request
constexpr std::int64_t kAlignment = 64;      // of a copy
constexpr std::size_t kSmallestPage = 4096;  // one read in each brings a page in

std::int64_t aligned(std::int64_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

void touch(std::span<const std::byte> bytes) {
  const volatile std::byte* read = bytes.data();  // volatile: the reads stay though nobody wants their values
  for (std::size_t i = 0; i < bytes.size(); i += kSmallestPage) static_cast<void>(read[i]);
}

}  // namespace

void StagedTensors::start(Context& ctx, std::vector<Source> sources) {
  thread_ = {};  // asks the one before to stop, and waits
  sources_ = std::move(sources);
  copies_.clear(), places_.clear();
  ready_ = 0;
  std::int64_t total = 0;
  for (const Source& source : sources_) total += aligned(std::ssize(source.bytes));
  if (ctx.device != Device::cpu) {
    try {
      if (!memory_ || memory_->bytes() < total) {
        memory_.reset();
        memory_ = std::make_unique<Storage>(ctx.host_allocator, total);
      }
      auto* to = static_cast<std::byte*>(memory_->data());
      for (std::size_t i = 0; i < sources_.size(); ++i) {
        places_[sources_[i].name] = i;
        copies_.emplace_back(to, sources_[i].bytes.size());
        to += aligned(std::ssize(sources_[i].bytes));
      }
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::out_of_memory) throw;
    }
  }
  thread_ = std::jthread([this](const std::stop_token& stop) {
    for (std::size_t i = 0; i < sources_.size(); ++i) {
      const std::span<const std::byte> from = sources_[i].bytes;
      for (std::size_t at = 0; at < from.size(); at += kChunk) {
        if (stop.stop_requested()) return;
        const auto chunk = from.subspan(at, std::min(kChunk, from.size() - at));
        copies_.empty() ? touch(chunk) : void(std::memcpy(copies_[i].data() + at, chunk.data(), chunk.size()));
      }
      if (!copies_.empty()) sources_[i].release();
      ready_ = i + 1;
      ready_.notify_all();
    }
  });
}

std::span<const std::byte> StagedTensors::bytes(const std::string& name) const {
  const auto at = places_.find(name);
  if (at == places_.end()) return {};
  for (std::size_t ready = ready_; ready <= at->second; ready = ready_) ready_.wait(ready);
  return copies_[at->second];
}

}  // namespace cbq
