// Tensors for a timed kernel, filled with random numbers and counted in bytes.
#pragma once

#include "core/tensor.h"

namespace cbq::bench {

// Random numbers of the device: standard normal values, repeated with a period that is no multiple of a row. Random,
// because products of zeros draw less power and run at a higher clock.
class Normal {
 public:
  explicit Normal(Context& ctx);
  // Contiguous, in f32 or bf16.
  Tensor tensor(Shape shape, DType dtype, double deviation) const;

 private:
  Context& ctx_;
  Tensor f32_, bf16_;
};

// The tensors of one call. bytes() is the traffic that a kernel cannot avoid: each input read once, each output written
// once.
class Operands {
 public:
  Operands(Context& ctx_, const Normal& normal) : ctx(ctx_), normal_(normal) {}

  Tensor input(Shape shape, DType dtype = DType::bf16, double deviation = 1);
  Tensor constant(Shape shape, double value);  // an input in f32
  Tensor output(Shape shape, DType dtype = DType::bf16);
  Tensor updated(Shape shape, DType dtype, double value);      // read and written
  void moves(std::int64_t bytes) { bytes_ += double(bytes); }  // of tensors made elsewhere
  double bytes() const { return bytes_; }

  Context& ctx;

 private:
  Tensor count(Tensor x, int passes);

  const Normal& normal_;
  double bytes_ = 0;
};

}  // namespace cbq::bench
