// Where the tests find real models, texts and golden values: CBQ_TEST_DATA, else ../shared where it exists.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string_view>

namespace cbq {

// Empty when there is no such folder.
inline std::filesystem::path shared_data() {
  const char* set = std::getenv("CBQ_TEST_DATA");
  const std::filesystem::path folder = set ? set : "../shared";
  return std::filesystem::is_directory(folder) ? folder : std::filesystem::path();
}

// CBQ_GOLDEN=all asks for the long comparisons too.
inline bool all_golden() {
  const char* set = std::getenv("CBQ_GOLDEN");
  return set && std::string_view(set) == "all";
}

}  // namespace cbq

#define CBQ_SKIP_WITHOUT_SHARED_DATA() \
  if (cbq::shared_data().empty()) GTEST_SKIP() << "no test data: set CBQ_TEST_DATA to their folder"
