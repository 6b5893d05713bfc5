// Reverse-mode differentiation. A Tape records one step per op; backward replays them last to first and frees each.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/kernel_args.h"
#include "core/tensor.h"

namespace cbq {

class Tape;

// Where one value's gradient collects: the first contribution moves in, later ones are added.
struct Slot {
  Tensor grad;
  void collect(Context& ctx, Tensor g);
};

// What a quantiser can give beside its values: IntegerRows of core/kernel_args.h. Nothing where it did not.
struct IntegerTensors {
  Tensor integers, step;

  explicit operator bool() const { return bool(integers); }
  IntegerRows views() const { return {integers, step}; }
};

// A tensor and, if it takes part in differentiation, its place on a tape. Constants have none.
struct Var {
  Var() = default;
  Var(Tensor value_) : value(std::move(value_)) {}  // implicit: a plain tensor is a constant

  bool needs_grad() const { return slot != nullptr; }
  const Shape& shape() const { return value.shape(); }

  Tensor value;
  IntegerTensors integers;  // of the value, in place of which products may read them
  std::shared_ptr<Slot> slot;
  Tape* tape = nullptr;
};

// A learned tensor that outlives the tapes. Its gradient collects in `slot` over every tape that used it, until the
// optimiser takes it.
struct Parameter {
  Parameter() = default;
  Parameter(std::string name_, Tensor value_) : name(std::move(name_)), value(std::move(value_)) {}

  std::string name;
  Tensor value;
  std::shared_ptr<Slot> slot = std::make_shared<Slot>();
};

// What an op's backward hands to its inputs, in the order the op recorded them.
class Grads {
 public:
  Grads(Context& ctx, const std::vector<std::shared_ptr<Slot>>& inputs) : ctx_(ctx), inputs_(inputs) {}
  // Whether input i takes part in differentiation; its gradient need not be computed otherwise.
  bool wants(std::size_t i) const { return inputs_.at(i) != nullptr; }
  // A tensor to be filled with the gradient of input i, or an empty one if it is not wanted.
  Tensor make(std::size_t i, const Tensor& like) const {
    return wants(i) ? Tensor(ctx_, like.shape(), like.dtype()) : Tensor();
  }
  // For kernels with an addend: where the gradient of input i goes, empty if it is not wanted, and what other ops gave
  // so far, taken out of the slot, or nothing. Both are one tensor where nobody else reads it. Give grad back by set().
  struct Target {
    Tensor grad, addend;
  };
  Target take(std::size_t i, const Shape& shape, DType dtype) const;
  // Gives the gradient of input i; ignored if it is not wanted.
  void set(std::size_t i, Tensor g) const {
    if (wants(i)) inputs_[i]->collect(ctx_, std::move(g));
  }

 private:
  Context& ctx_;
  const std::vector<std::shared_ptr<Slot>>& inputs_;
};

class Tape {
 public:
  explicit Tape(Context& ctx) : ctx_(ctx) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  // A value whose gradient is wanted: collected in its slot (or the parameter's).
  Var leaf(Tensor value);
  Var leaf(const Parameter& parameter);

  // Ends an op: `y` becomes a Var. If some input needs a gradient, the node is kept for backward, else it is dropped.
  // A Node is a struct of the saved tensors with
  //   void backward(Context&, const Tensor& dy, const Grads&) const   and   std::int64_t saved_bytes() const.
  template <class Node>
  static Var record(Tensor y, std::initializer_list<Var> inputs, Node node) {
    return record(std::move(y), std::vector<Var>(inputs), std::move(node));
  }
  template <class Node>
  static Var record(Tensor y, const std::vector<Var>& inputs, Node node);

  // d(y)/d(leaf) for every leaf that y depends on, seeded with dy (ones if empty). Consumes the tape: it is empty
  // after.
  void backward(const Var& y, Tensor dy = {});

  std::size_t size() const { return steps_.size(); }
  // Bytes held by the recorded nodes. A tensor saved by two nodes counts twice.
  std::int64_t saved_bytes() const;

 private:
  struct Step {
    std::shared_ptr<Slot> out;
    std::vector<std::shared_ptr<Slot>> inputs;
    std::function<void(Context&, const Tensor& dy, const Grads&)> run;
    std::int64_t saved_bytes;
  };
  static Tape* common_tape(const std::vector<Var>& inputs);

  Context& ctx_;
  std::vector<Step> steps_;
};

template <class Node>
Var Tape::record(Tensor y, const std::vector<Var>& inputs, Node node) {
  Var out(std::move(y));
  Tape* tape = common_tape(inputs);
  if (!tape) return out;
  out.tape = tape;
  out.slot = std::make_shared<Slot>();
  std::vector<std::shared_ptr<Slot>> slots;
  for (const Var& in : inputs) slots.push_back(in.slot);
  const std::int64_t saved_bytes = node.saved_bytes();
  auto run = [node = std::move(node)](Context& ctx, const Tensor& dy, const Grads& grads) {
    node.backward(ctx, dy, grads);
  };
  tape->steps_.push_back({out.slot, std::move(slots), std::move(run), saved_bytes});
  return out;
}

// Bytes of the tensors a node saves, for its saved_bytes().
template <class... Tensors>
std::int64_t bytes_of(const Tensors&... tensors) {
  return (std::int64_t{0} + ... + (tensors ? tensors.bytes() : 0));
}

}  // namespace cbq
