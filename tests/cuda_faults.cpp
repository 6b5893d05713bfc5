// What is left after the GPU refuses memory, and what is said when a kernel destroys the context: in a child process,
// because nothing runs on a GPU after that.
#include <cstdlib>

#include "tests/error_text.h"
#include "tests/gpu.h"

namespace cbq::test {
namespace {

TEST(CudaFaults, RefusedMemoryLeavesTheContextUsable) {
  const std::int64_t before = gpu().allocator->bytes_in_use();
  const std::string text = error_text(
      [] {
        Tensor(gpu(), {1 << 20, 1 << 20, 4}, DType::f32);
      },
      ErrorKind::out_of_memory);
  EXPECT_NE(text.find("no room for 17592186044416 bytes on the GPU, "), std::string::npos) << text;  // 16 TiB
  EXPECT_NE(text.find(" bytes in use, "), std::string::npos) << text;
  EXPECT_NE(text.find(" bytes free"), std::string::npos) << text;
  EXPECT_EQ(gpu().allocator->bytes_in_use(), before);
  EXPECT_EQ(to_host<float>(gpu(), full(gpu(), {3}, DType::f32, 1)), std::vector<float>(3, 1.0f));
}

TEST(CudaFaults, AFullGpuWorksAgainOnceMemoryIsGivenBack) {
  gpu().allocator->trim();
  const std::int64_t piece = gpu().bytes_available() / 16;
  {
    std::vector<Tensor> all;
    const std::string text = error_text(
        [&] {
          for (int i = 0; i < 20; ++i) all.emplace_back(gpu(), Shape{piece}, DType::u8);
        },
        ErrorKind::out_of_memory);
    EXPECT_NE(text.find("no room for"), std::string::npos) << text;
    EXPECT_GE(all.size(), 8u);
  }
  EXPECT_EQ(to_host<float>(gpu(), full(gpu(), {1 << 20}, DType::f32, 1)), std::vector<float>(1 << 20, 1.0f));
  gpu().allocator->trim();
}

// Writes through an address that belongs to nobody, and ends as the program does: with the error as a line.
[[noreturn]] void fail_on_the_gpu() {
  try {
    View nowhere = full(gpu(), {4096}, DType::f32, 0);
    nowhere.data = reinterpret_cast<void*>(std::uintptr_t(16));
    gpu().kernels->fill(gpu(), nowhere, 1);
    gpu().synchronize();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::exit(error.kind() == ErrorKind::device_lost ? error.exit_code() : 3);
  }
  std::exit(0);
}

class CudaFaultsDeathTest : public testing::Test {
 protected:
  // The child is this program started anew: a context does not survive a fork.
  CudaFaultsDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
  ~CudaFaultsDeathTest() override { unsetenv("CBQ_SYNC"); }
};

// One line: the destructors that come after it, of tensors and of the context, add none.
TEST_F(CudaFaultsDeathTest, AnAsynchronousFaultIsReportedOnce) {
  unsetenv("CBQ_SYNC");
  EXPECT_EXIT(fail_on_the_gpu(), testing::ExitedWithCode(1),
              testing::Eq("cuda: the GPU stopped working, noticed by cudaStreamSynchronize: cudaErrorIllegalAddress, "
                          "an illegal memory access was encountered; CBQ_SYNC=1 names the kernel\n"));
}

TEST_F(CudaFaultsDeathTest, UnderSyncItNamesItsKernel) {
  setenv("CBQ_SYNC", "1", 1);
  EXPECT_EXIT(fail_on_the_gpu(), testing::ExitedWithCode(1),
              testing::Eq("cuda: the GPU stopped working in kernel fill: cudaErrorIllegalAddress, an illegal memory "
                          "access was encountered\n"));
}

}  // namespace
}  // namespace cbq::test
