// Copies between host and device, conversion between float types, constants.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "cuda/launch.h"

namespace cbq::cuda {
namespace {

// f8 is made of floats and becomes one; the other types convert into each other.
using F8 = __nv_fp8_e4m3;
template <class Y, class X>
__device__ Y converted(const X& x) {
  if constexpr (!std::is_same_v<X, Y> && (std::is_same_v<X, F8> || std::is_same_v<Y, F8>))
    return Y(float(x));
  else
    return Y(x);
}

// One thread an element, in a grid that walks; traffic is one read and one write.
template <class Y, class X>
__global__ void convert_kernel(Rows<Y> y, Rows<const X> x) {
  const std::int64_t count = x.rows * x.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x) {
    const std::int64_t r = i / x.cols, c = i - r * x.cols;
    y.data[r * y.stride + c] = converted<Y>(x.data[r * x.stride + c]);
  }
}

template <class Y>
__global__ void fill_kernel(Rows<Y> y, Y value) {
  const std::int64_t count = y.rows * y.cols;
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < count;
       i += std::int64_t(gridDim.x) * blockDim.x)
    y.data[i / y.cols * y.stride + i % y.cols] = value;
}

// Calls fn with a value of the type that `dtype` names.
template <class Fn>
void dispatch(DType dtype, const char* kernel, const Fn& fn) {
  switch (dtype) {
    case DType::f64: return fn(double{});  // of host numbers on their way; nothing computes in it
    case DType::f32: return fn(float{});
    case DType::f16: return fn(__half{});
    case DType::bf16: return fn(__nv_bfloat16{});
    case DType::f8: return fn(F8{});
    case DType::i32: return fn(std::int32_t{});
    case DType::u8: return fn(std::uint8_t{});
    default: fail(ErrorKind::failure, kernel, ": the CUDA backend has no ", dtype);
  }
}

template <class T>
bool is_dense(const Rows<T>& x) {
  return x.rows <= 1 || x.stride == x.cols;
}

template <class T>
constexpr bool is_integer = std::is_integral_v<T>;

// A copy on its way into page-locked memory, which stays until it has arrived.
struct PendingCopy {
  Storage to;
  Event arrived;
  PendingCopy(const std::shared_ptr<Allocator>& allocator, std::int64_t bytes)
      : to(allocator, bytes), arrived(make_event()) {}
  ~PendingCopy() { CUDA_LOG(cudaEventSynchronize(arrived.get())); }
};

}  // namespace

void copy_from_host(Context& ctx, void* device, const void* host, std::int64_t bytes) {
  const cudaStream_t stream = cuda_context(ctx).stream.get();
  CUDA_CHECK(cudaMemcpyAsync(device, host, std::size_t(bytes), cudaMemcpyHostToDevice, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));  // the caller may free `host` on return
}

void copy_to_host(Context& ctx, void* host, const void* device, std::int64_t bytes) {
  const cudaStream_t stream = cuda_context(ctx).stream.get();
  CUDA_CHECK(cudaMemcpyAsync(host, device, std::size_t(bytes), cudaMemcpyDeviceToHost, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
}

void upload(Context& ctx, void* device, const void* host, std::int64_t bytes) {
  CUDA_CHECK(cudaMemcpyAsync(device, host, std::size_t(bytes), cudaMemcpyHostToDevice, cuda_context(ctx).stream.get()));
}

void download(Context& ctx, void* host, const void* device, std::int64_t bytes) {
  CUDA_CHECK(cudaMemcpyAsync(host, device, std::size_t(bytes), cudaMemcpyDeviceToHost, cuda_context(ctx).stream.get()));
}

std::function<std::vector<std::byte>()> CudaContext::read_later(const void* device_bytes, std::int64_t bytes) {
  const auto copy = std::make_shared<PendingCopy>(host_allocator, bytes);
  CUDA_CHECK(cudaMemcpyAsync(copy->to.data(), device_bytes, std::size_t(bytes), cudaMemcpyDeviceToHost, stream.get()));
  CUDA_CHECK(cudaEventRecord(copy->arrived.get(), stream.get()));
  return [copy] {
    CUDA_CHECK(cudaEventSynchronize(copy->arrived.get()));
    const auto* first = static_cast<const std::byte*>(copy->to.data());
    return std::vector<std::byte>(first, first + copy->to.bytes());
  };
}

void convert(Context& ctx, View y, View x) {
  if (x.count() == 0) return;
  dispatch(y.dtype, "convert", [&]<class Y>(Y) {
    dispatch(x.dtype, "convert", [&]<class X>(X) {
      if constexpr (std::is_same_v<X, Y> || (!is_integer<X> && !is_integer<Y>)) {
        const Rows<Y> to = rows<Y>(y);
        const Rows<const X> from = rows<const X>(x);
        if (std::is_same_v<X, Y> && is_dense(to) && is_dense(from))
          CUDA_CHECK(cudaMemcpyAsync(to.data, from.data, std::size_t(x.count()) * sizeof(X), cudaMemcpyDeviceToDevice,
                                     cuda_context(ctx).stream.get()));
        else
          launch("convert", ctx, shape_for(x.count()), convert_kernel<Y, X>, to, from);
      } else {
        fail(ErrorKind::failure, "convert: from ", x.dtype, " to ", y.dtype, " is not a float conversion");
      }
    });
  });
}

void fill(Context& ctx, View y, double value) {
  if (y.count() == 0) return;
  dispatch(y.dtype, "fill",
           [&]<class Y>(Y) { launch("fill", ctx, shape_for(y.count()), fill_kernel<Y>, rows<Y>(y), Y(float(value))); });
}

}  // namespace cbq::cuda
