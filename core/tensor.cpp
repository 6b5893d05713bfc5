#include "core/tensor.h"

#include <cstring>
#include <type_traits>

#include "core/kernels.h"

namespace cbq {
namespace {

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::i8;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
}

std::array<std::int64_t, Shape::kMaxRank> contiguous_strides(const Shape& shape) {
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  std::int64_t step = 1;
  for (int d = shape.rank() - 1; d >= 0; --d) {
    strides[std::size_t(d)] = step;
    step *= shape[d];
  }
  return strides;
}

}  // namespace

Tensor::Tensor(Context& ctx, Shape shape, DType dtype)
    : storage_(std::make_shared<Storage>(ctx.allocator, shape.count() * size_of(dtype))),
      shape_(shape),
      strides_(contiguous_strides(shape)),
      dtype_(dtype) {}

Tensor::operator View() const {
  return {data(), dtype_, shape_, strides_};
}

bool Tensor::is_contiguous() const {
  const auto expected = contiguous_strides(shape_);
  for (int d = 0; d < shape_.rank(); ++d)
    if (shape_[d] != 1 && strides_[std::size_t(d)] != expected[std::size_t(d)]) return false;
  return true;
}

Tensor Tensor::slice(int dim, std::int64_t begin, std::int64_t end) const {
  require(begin >= 0 && begin <= end && end <= shape_[dim], "slice: ", begin, " .. ", end, " is not within dimension ",
          dim, " of ", shape_);
  Shape sliced;
  for (int d = 0; d < shape_.rank(); ++d) sliced.append(d == dim ? end - begin : shape_[d]);
  Tensor y = *this;
  y.offset_ += begin * strides_[std::size_t(dim)];
  y.shape_ = sliced;
  return y;
}

Tensor Tensor::reshape(Shape shape) const {
  require(shape.count() == count(), "reshape: ", shape_, " does not have the ", shape.count(), " elements of ", shape);
  require(is_contiguous(), "reshape: ", shape_, " is not contiguous; call contiguous()");
  Tensor y = *this;
  y.shape_ = shape;
  y.strides_ = contiguous_strides(shape);
  return y;
}

Tensor Tensor::heads(std::int64_t batch, std::int64_t head_count) const {
  require(shape_.rank() == 2 && batch > 0 && head_count > 0 && rows() % batch == 0 && cols() % head_count == 0,
          "heads: ", shape_, " does not divide into batch ", batch, " and ", head_count, " heads");
  const std::int64_t tokens = rows() / batch, dim = cols() / head_count, row = strides_[0];
  Tensor y = *this;
  y.shape_ = {batch, tokens, head_count, dim};
  y.strides_ = {tokens * row, row, dim, 1};
  return y;
}

Tensor from_host_bytes(Context& ctx, Shape shape, DType dtype, std::span<const std::byte> bytes) {
  Tensor y(ctx, shape, dtype);
  require(std::int64_t(bytes.size()) == y.bytes(), "from_host: ", shape, " ", dtype, " takes ", y.bytes(),
          " bytes, got ", bytes.size());
  if (y.bytes() > 0) ctx.kernels->copy_from_host(ctx, y.data(), bytes.data(), y.bytes());
  return y;
}

void to_host_bytes(Context& ctx, std::span<std::byte> bytes, const Tensor& x) {
  require(std::int64_t(bytes.size()) == x.bytes(), "to_host: ", x.shape(), " ", x.dtype(), " has ", x.bytes(),
          " bytes, room for ", bytes.size());
  const Tensor dense = contiguous(ctx, x);
  if (x.bytes() > 0) ctx.kernels->copy_to_host(ctx, bytes.data(), dense.data(), x.bytes());
}

template <class T>
Tensor from_host(Context& ctx, Shape shape, DType dtype, std::span<const T> values) {
  Tensor y = from_host_bytes(ctx, shape, dtype_of<T>(), std::as_bytes(values));
  return y.dtype() == dtype ? y : convert(ctx, y, dtype);
}

template <class T>
std::vector<T> to_host(Context& ctx, const Tensor& x) {
  const Tensor converted = x.dtype() == dtype_of<T>() ? x : convert(ctx, x, dtype_of<T>());
  std::vector<T> values(std::size_t(x.count()));
  to_host_bytes(ctx, std::as_writable_bytes(std::span(values)), converted);
  return values;
}

template Tensor from_host(Context&, Shape, DType, std::span<const float>);
template Tensor from_host(Context&, Shape, DType, std::span<const double>);
template Tensor from_host(Context&, Shape, DType, std::span<const std::int64_t>);
template Tensor from_host(Context&, Shape, DType, std::span<const std::int32_t>);
template Tensor from_host(Context&, Shape, DType, std::span<const std::uint8_t>);
template std::vector<float> to_host(Context&, const Tensor&);
template std::vector<double> to_host(Context&, const Tensor&);
template std::vector<std::int64_t> to_host(Context&, const Tensor&);
template std::vector<std::int32_t> to_host(Context&, const Tensor&);
template std::vector<std::uint8_t> to_host(Context&, const Tensor&);

std::function<std::vector<float>()> to_host_later(Context& ctx, const Tensor& x) {
  require(x.dtype() == DType::f32 && x.is_contiguous(), "to_host_later: expected contiguous f32, got ", x.shape(), " ",
          x.dtype());
  return [read = ctx.read_later(x.data(), x.bytes())] {
    const std::vector<std::byte> bytes = read();
    std::vector<float> values(bytes.size() / sizeof(float));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  };
}

Tensor full(Context& ctx, Shape shape, DType dtype, double value) {
  Tensor y(ctx, shape, dtype);
  ctx.kernels->fill(ctx, y, value);
  return y;
}

Tensor convert(Context& ctx, const Tensor& x, DType dtype) {
  Tensor y(ctx, x.shape(), dtype);
  ctx.kernels->convert(ctx, y, x);
  return y;
}

Tensor copy(Context& ctx, const Tensor& x) {
  return convert(ctx, x, x.dtype());
}

Tensor contiguous(Context& ctx, const Tensor& x) {
  return x.is_contiguous() ? x : copy(ctx, x);
}

}  // namespace cbq
