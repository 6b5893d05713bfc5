// What makes a step cheap on the GPU: memory that is kept.
#include "tests/error_text.h"
#include "tests/gpu.h"

namespace cbq::test {
namespace {

TEST(CudaMemory, AFreedBlockServesTheNextRequestOfItsSize) {
  Context& ctx = gpu();
  void* first = Tensor(ctx, {1000}, DType::f32).data();
  EXPECT_EQ(Tensor(ctx, {1001}, DType::f32).data(), first);  // both are 4096 bytes of the pool
  const Tensor other(ctx, {5000}, DType::f32), again(ctx, {1000}, DType::f32), fresh(ctx, {1000}, DType::f32);
  EXPECT_EQ(again.data(), first);
  EXPECT_NE(fresh.data(), first);
}

TEST(CudaMemory, KeptBlocksCountAsAvailableAndGoBack) {
  Context& ctx = gpu();
  ctx.allocator->trim();
  const std::int64_t before = ctx.bytes_available(), in_use = ctx.allocator->bytes_in_use();
  constexpr std::int64_t kBytes = 64 << 20;
  { const Tensor x(ctx, {kBytes}, DType::u8); }
  EXPECT_EQ(ctx.allocator->bytes_in_use(), in_use);
  EXPECT_GE(ctx.bytes_available(), before - kBytes / 2);
  ctx.allocator->trim();
  EXPECT_GE(ctx.bytes_available(), before - kBytes / 2);
}

// Kept blocks of one size make room for another, and what cannot be had is an Error that leaves the device usable.
TEST(CudaMemory, KeptBlocksMakeRoom) {
  Context& ctx = gpu();
  ctx.allocator->trim();
  const std::int64_t most = ctx.bytes_available() / 8 * 5;
  { const Tensor x(ctx, {most}, DType::u8); }
  { const Tensor y(ctx, {most + (1 << 20)}, DType::u8); }
  EXPECT_NE(error_text([&] { Tensor(ctx, {std::int64_t(1) << 46}, DType::u8); }, ErrorKind::failure)
                .find("memory: no room for 70368744177664 bytes on the GPU"),
            std::string::npos);
  ctx.allocator->trim();
  EXPECT_EQ(to_host<float>(ctx, full(ctx, {3}, DType::f32, 2)), std::vector<float>(3, 2.f));
}

}  // namespace
}  // namespace cbq::test
