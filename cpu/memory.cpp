// Copies, conversions and fills.
#include <cstring>

#include "cpu/backend.h"
#include "cpu/parallel.h"

namespace cbq::cpu {
namespace {

// One element type of a float tensor: how it is stored, and how it becomes a number and back.
struct F64 {
  using Stored = double;
  static double load(double x) { return x; }
  static double store(double x) { return x; }
};
struct F32 {
  using Stored = float;
  static float load(float x) { return x; }
  static float store(double x) { return float(x); }
  static float store(float x) { return x; }
};
struct F16 {
  using Stored = std::uint16_t;
  static float load(std::uint16_t x) { return f16_to_f32(x); }
  static std::uint16_t store(double x) { return f32_to_f16(float(x)); }
};
struct BF16 {
  using Stored = std::uint16_t;
  static float load(std::uint16_t x) { return bf16_to_f32(x); }
  static std::uint16_t store(double x) { return f32_to_bf16(float(x)); }
};

struct F8 {
  using Stored = std::uint8_t;
  static float load(std::uint8_t x) { return f8_to_f32(x); }
  static std::uint8_t store(double x) { return f32_to_f8(float(x)); }
};

template <class Fn>
void dispatch_any_float(DType dtype, const char* kernel, const Fn& fn) {
  switch (dtype) {
    case DType::f64: return fn.template operator()<F64>();
    case DType::f32: return fn.template operator()<F32>();
    case DType::f16: return fn.template operator()<F16>();
    case DType::bf16: return fn.template operator()<BF16>();
    case DType::f8: return fn.template operator()<F8>();
    default: fail(ErrorKind::failure, kernel, ": expected a float type, got ", dtype);
  }
}

template <class Fn>
void dispatch_integer(DType dtype, const char* kernel, const Fn& fn) {
  switch (dtype) {
    case DType::i64: return fn.template operator()<std::int64_t>();
    case DType::i32: return fn.template operator()<std::int32_t>();
    case DType::i8: return fn.template operator()<std::int8_t>();
    case DType::u8: return fn.template operator()<std::uint8_t>();
    default: fail(ErrorKind::failure, kernel, ": expected an integer type, got ", dtype);
  }
}

}  // namespace

void copy_from_host(Context&, void* device, const void* host, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(device, host, std::size_t(bytes));
}

void upload(Context& ctx, void* device, const void* host, std::int64_t bytes) {
  copy_from_host(ctx, device, host, bytes);
}

void download(Context& ctx, void* host, const void* device, std::int64_t bytes) {
  copy_to_host(ctx, host, device, bytes);
}

void copy_to_host(Context&, void* host, const void* device, std::int64_t bytes) {
  if (bytes > 0) std::memcpy(host, device, std::size_t(bytes));
}

// f64 to a narrow type rounds twice, by way of f32.
void convert(Context&, View y, View x) {
  if (!is_float(x.dtype)) {
    require(x.dtype == y.dtype, "convert: an integer tensor keeps its type, got ", x.dtype, " to ", y.dtype);
    return dispatch_integer(x.dtype, "convert", [&]<class T>() {
      const auto f = [](T value) { return value; };
      map(rows<T>(y), f, rows<const T>(x));
    });
  }
  dispatch_any_float(y.dtype, "convert", [&]<class To>() {
    dispatch_any_float(x.dtype, "convert", [&]<class From>() {
      const auto f = [](typename From::Stored value) { return To::store(From::load(value)); };
      map(rows<typename To::Stored>(y), f, rows<const typename From::Stored>(x));
    });
  });
}

void fill(Context&, View y, double value) {
  if (is_float(y.dtype))
    return dispatch_any_float(y.dtype, "fill", [&]<class To>() {
      map(rows<typename To::Stored>(y), [stored = To::store(value)] { return stored; });
    });
  dispatch_integer(y.dtype, "fill", [&]<class T>() { map(rows<T>(y), [stored = T(value)] { return stored; }); });
}

}  // namespace cbq::cpu
