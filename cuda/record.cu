// A step as a CUDA graph: its launches cost the host one call instead of some hundred.
//
// The graph remembers addresses, so the memory of the step has to stay in place while the graph lives.
//  * Capture asks the driver for no memory, which would become a node of the graph with an address of its own. The step
//    ran just before, so every block it needs is kept by the allocator (cuda/pool.h), and capture takes from those.
//  * The step's own scratch is free again when capture ends, and free means that the next request may have it: between
//    two replays a sample or a loss would then lie where the graph writes. The allocator therefore hands what was freed
//    during capture to the replay, which gives it back at its end. Within the graph the blocks serve several tensors
//    one after the other, as in the step itself: the graph is one chain, because one stream was captured.
//  * What the step leaves behind (its loss, gradients) has owners outside. They keep it as long as the replay.
//  * At the end the blocks go back while the last replay may still run. Whoever gets them works on the same stream,
//    behind it.
// cuBLASLt reads its plans, which the step before has made, and writes to the one workspace of the context.
#include "cuda/backend.h"
#include "cuda/pool.h"

namespace cbq::cuda {
namespace {

class GraphReplay final : public Replay {
 public:
  GraphReplay(std::shared_ptr<Allocator> allocator, FreeBlocks scratch, GraphExec graph, cudaStream_t stream)
      : allocator_(std::move(allocator)), scratch_(std::move(scratch)), graph_(std::move(graph)), stream_(stream) {}
  ~GraphReplay() override { static_cast<PoolAllocator&>(*allocator_).give_back(std::move(scratch_)); }
  void run() override { CUDA_CHECK(cudaGraphLaunch(graph_.get(), stream_)); }

 private:
  std::shared_ptr<Allocator> allocator_;
  FreeBlocks scratch_;
  GraphExec graph_;
  cudaStream_t stream_;
};

// Null if something in `work` cannot be captured: an Error of its own shows again when it is done for real.
Graph capture(cudaStream_t stream, const std::function<void()>& work) {
  // Only this thread's calls count: another one may allocate or copy meanwhile.
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) return {};
  bool is_complete = true;
  try {
    work();
  } catch (const std::exception&) {
    is_complete = false;
  }
  cudaGraph_t captured = nullptr;
  const bool has_ended = cudaStreamEndCapture(stream, &captured) == cudaSuccess;
  Graph graph(captured);
  return is_complete && has_ended ? std::move(graph) : Graph();
}

GraphExec instantiate(const Graph& graph) {
  cudaGraphExec_t made = nullptr;
  if (!graph || cudaGraphInstantiate(&made, graph.get(), 0) != cudaSuccess) return {};
  return GraphExec(made);
}

}  // namespace

std::unique_ptr<Replay> CudaContext::record(const std::function<void()>& work) {
  if (waits) return nullptr;  // capture cannot be waited for
  auto& pool = static_cast<PoolAllocator&>(*allocator);
  pool.begin_recording();
  GraphExec graph = instantiate(capture(stream.get(), work));
  FreeBlocks scratch = pool.end_recording();
  if (graph) return std::make_unique<GraphReplay>(allocator, std::move(scratch), std::move(graph), stream.get());
  pool.give_back(std::move(scratch));
  cudaGetLastError();  // a capture that failed leaves no error behind
  return nullptr;
}

}  // namespace cbq::cuda
