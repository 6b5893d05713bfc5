// Tensors on their way from a memory map to the device.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/tensor.h"

namespace cbq {

// Copies tensors into host memory that the device copies from at full speed, in a thread of its own, while the device
// works: from the map of a file a copy to the device is as slow as the disk, and from its pages in memory still several
// times slower. On a device that is the host, and where that memory does not suffice, the map's pages are only brought
// in. start() and bytes() are for one thread at a time.
class StagedTensors {
 public:
  struct Source {
    std::string name;
    std::span<const std::byte> bytes;  // stays valid until the next start()
    std::function<void()> release;     // called once they are copied
  };

  StagedTensors() = default;
  StagedTensors(const StagedTensors&) = delete;
  StagedTensors& operator=(const StagedTensors&) = delete;

  // Begins with these, in their order; what was staged before is gone.
  void start(Context& ctx, std::vector<Source> sources);
  // The copy of a tensor, waiting until it is there; valid until the next start(). Empty if there is none.
  std::span<const std::byte> bytes(const std::string& name) const;

 private:
  std::map<std::string, std::size_t> places_;  // in sources_
  std::vector<Source> sources_;
  std::vector<std::span<std::byte>> copies_;  // as sources_; none where pages are only brought in
  std::unique_ptr<Storage> memory_;           // kept for the next start(): page-locked memory takes long to make
  std::atomic<std::size_t> ready_ = 0;        // copies that are there
  std::jthread thread_;                       // last: it ends before what it uses goes
};

}  // namespace cbq
