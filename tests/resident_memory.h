// How much of mapped files is in memory.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace cbq {

// Pages of this process that come from files, in bytes: field 3 of /proc/self/statm.
inline std::int64_t resident_file_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::int64_t total = 0, resident = 0, shared = 0;
  statm >> total >> resident >> shared;
  return shared * sysconf(_SC_PAGESIZE);
}

}  // namespace cbq
