#include "cpu/libraries.h"

#include <cblas.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace cbq::cpu {
namespace {

// OpenBLAS's name for the kernels it should use in place of those it chose; null where its choice stands.
const char* better_core() {
#if defined(__x86_64__)
  const std::string_view chosen = openblas_get_corename();
  for (const char* without_avx2 : {"Prescott", "Core2", "Penryn", "Dunnington", "Nehalem", "Sandybridge", "Generic"}) {
    if (chosen != without_avx2) continue;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return "SkylakeX";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "Haswell";
  }
#endif
  return nullptr;
}

}  // namespace

void prepare_libraries(char** argv) {
  constexpr int kKeep = 0;
  const bool waits = std::getenv("OMP_WAIT_POLICY") == nullptr && setenv("OMP_WAIT_POLICY", "passive", kKeep) == 0;
  const char* core = std::getenv("OPENBLAS_CORETYPE") ? nullptr : better_core();
  const bool vectors = core && setenv("OPENBLAS_CORETYPE", core, kKeep) == 0;
  if (waits || vectors) execv("/proc/self/exe", argv);  // returns only if it fails, which costs speed and nothing else
}

}  // namespace cbq::cpu
