#include "core/version.h"

#include "core/commit.h"  // written by tools/commit.cmake at each build

namespace cbq {

std::string_view program_version() {
  return CBQ_VERSION;
}
std::string_view program_commit() {
  return kCommit;
}
std::string_view program_compiler() {
#ifdef __clang__
  return "clang " __clang_version__;
#else
  return "g++ " __VERSION__;
#endif
}

}  // namespace cbq
