// Tensor: a counted handle on device memory with a shape. Copying the handle shares the bytes.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "core/context.h"
#include "core/view.h"

namespace cbq {

// Bytes from an allocator, returned to it when the last Tensor lets go. Keeps the allocator alive.
class Storage {
 public:
  Storage(std::shared_ptr<Allocator> allocator, std::int64_t bytes)
      : allocator_(std::move(allocator)), bytes_(bytes), data_(allocator_->allocate(bytes)) {}
  ~Storage() { allocator_->deallocate(data_, bytes_); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Allocator> allocator_;
  std::int64_t bytes_;
  void* data_;
};

class Tensor {
 public:
  Tensor() = default;  // no bytes; false
  // Contiguous, contents undefined.
  Tensor(Context& ctx, Shape shape, DType dtype);

  explicit operator bool() const { return storage_ != nullptr; }
  operator View() const;  // implicit: kernels take Views, callers have Tensors

  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  std::int64_t size(int dim) const { return shape_[dim]; }
  std::int64_t rows() const { return shape_.rows(); }
  std::int64_t cols() const { return shape_.cols(); }
  std::int64_t count() const { return shape_.count(); }
  std::int64_t bytes() const { return count() * size_of(dtype_); }
  bool is_contiguous() const;
  // True if no other Tensor reads these bytes, so that they may be overwritten.
  bool sole_owner() const { return storage_.use_count() == 1; }
  // Address of the first element; device memory when the Context is CUDA's.
  void* data() const {
    return storage_ ? static_cast<std::byte*>(storage_->data()) + offset_ * size_of(dtype_) : nullptr;
  }
  // Elements begin .. end-1 of one dimension; shares bytes.
  Tensor slice(int dim, std::int64_t begin, std::int64_t end) const;
  // Another shape of the same count; contiguous tensors only; shares bytes.
  Tensor reshape(Shape shape) const;
  // (R, H*D) with R = B*T rows -> (B, T, H, D); the columns may be a slice of wider rows; shares bytes.
  Tensor heads(std::int64_t batch, std::int64_t head_count) const;

 private:
  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0;  // in elements
  Shape shape_;
  std::array<std::int64_t, Shape::kMaxRank> strides_{};
  DType dtype_ = DType::f32;
};

// Copies between a tensor (contiguous) and host memory; both wait for the queue. `from_host` makes a new tensor.
template <class T>
Tensor from_host(Context& ctx, Shape shape, DType dtype, std::span<const T> values);
Tensor from_host_bytes(Context& ctx, Shape shape, DType dtype, std::span<const std::byte> bytes);
void to_host_bytes(Context& ctx, std::span<std::byte> bytes, const Tensor& x);

// Float tensors of any dtype as host numbers, converted; i32 for to_host<std::int32_t>.
template <class T>
std::vector<T> to_host(Context& ctx, const Tensor& x);

// As to_host<float> of an f32 tensor, but the copy is only queued: x may be overwritten behind it, and the function
// waits for this copy alone.
std::function<std::vector<float>()> to_host_later(Context& ctx, const Tensor& x);

// A contiguous tensor of zeros, or of any value.
Tensor full(Context& ctx, Shape shape, DType dtype, double value);
// A new contiguous tensor with the same values, in x's dtype or another.
Tensor copy(Context& ctx, const Tensor& x);
Tensor convert(Context& ctx, const Tensor& x, DType dtype);
// x itself when it is contiguous, else a copy.
Tensor contiguous(Context& ctx, const Tensor& x);

}  // namespace cbq
