#include "bench/gpu.h"

#include <benchmark/benchmark.h>
#include <dlfcn.h>

#include <array>
#include <cstdio>

#include "cuda/open.h"

namespace cbq::bench {
namespace {

// Asked of NVML, which comes with the driver; opened by name, because a program linked to it would not start without a
// driver.
std::string driver_version() {
  const std::unique_ptr<void, int (*)(void*)> nvml(dlopen("libnvidia-ml.so.1", RTLD_LAZY | RTLD_LOCAL), dlclose);
  if (!nvml) return "unknown";
  const auto init = reinterpret_cast<int (*)()>(dlsym(nvml.get(), "nvmlInit_v2"));
  const auto shutdown = reinterpret_cast<int (*)()>(dlsym(nvml.get(), "nvmlShutdown"));
  const auto version = reinterpret_cast<int (*)(char*, unsigned)>(dlsym(nvml.get(), "nvmlSystemGetDriverVersion"));
  if (!init || !shutdown || !version || init() != 0) return "unknown";
  std::array<char, 81> text{};  // NVML's own bound
  const int status = version(text.data(), unsigned(text.size() - 1));
  shutdown();
  return status == 0 ? text.data() : "unknown";
}

}  // namespace

std::unique_ptr<Context> open_gpu() {
  try {
    std::unique_ptr<Context> gpu = cuda::open();
    benchmark::AddCustomContext("gpu", gpu->name);
    benchmark::AddCustomContext("driver", driver_version());
    return gpu;
  } catch (const Error& error) {
    std::fprintf(stderr, "no benchmark of a GPU: %s\n", error.what());
    return nullptr;
  }
}

}  // namespace cbq::bench
