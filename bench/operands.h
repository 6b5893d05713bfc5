// Tensors for a timed kernel, filled with random numbers and counted in bytes.
#pragma once

#include "autograd/tape.h"

namespace cbq::bench {

// Random numbers of the device: standard normal values, repeated with a period that is no multiple of a row; a tensor
// goes on where the one before ended. Random, because products of zeros draw less power and run at a higher clock.
class Normal {
 public:
  explicit Normal(Context& ctx);
  // Contiguous, in f32 or bf16.
  Tensor tensor(Shape shape, DType dtype, double deviation);

 private:
  Context& ctx_;
  Tensor f32_, bf16_;
  std::int64_t next_ = 0;
};

// x on a 4-bit grid of each row, with its integers.
Var quantised(Context& ctx, const Tensor& x);

// The tensors of one call. bytes() is the traffic that a kernel cannot avoid: each input read once, each output written
// once.
class Operands {
 public:
  Operands(Context& ctx_, Normal& normal) : ctx(ctx_), normal_(normal) {}

  Tensor input(Shape shape, DType dtype = DType::bf16, double deviation = 1);
  IntegerTensors integers(Shape shape);        // of quantised() random numbers
  Tensor constant(Shape shape, double value);  // an input in f32
  Tensor output(Shape shape, DType dtype = DType::bf16);
  Tensor updated(Shape shape, DType dtype, double value);      // read and written
  void moves(std::int64_t bytes) { bytes_ += double(bytes); }  // of tensors made elsewhere
  double bytes() const { return bytes_; }

  Context& ctx;

 private:
  Tensor count(Tensor x, int passes);

  Normal& normal_;
  double bytes_ = 0;
};

}  // namespace cbq::bench
