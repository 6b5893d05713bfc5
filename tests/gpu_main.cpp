// Runs the tests of the CUDA backend on a GPU; without one, prints one line that says how many were skipped, and why.
#include <cstdio>

#include "cpu/libraries.h"
#include "tests/gpu.h"

int main(int argc, char** argv) {
  cbq::cpu::prepare_libraries(argv);
  testing::InitGoogleTest(&argc, argv);
  try {
    cbq::test::gpu();
  } catch (const cbq::Error& error) {
    std::printf("%d tests of the CUDA backend skipped: %s\n", testing::UnitTest::GetInstance()->total_test_count(),
                error.what());
    return 0;
  }
  return RUN_ALL_TESTS();
}
