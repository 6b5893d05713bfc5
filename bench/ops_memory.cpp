// Kernels that memory bounds: what a share of the copy rate says is how much of the device they leave unused.
#include "autograd/ops.h"
#include "autograd/optim.h"
#include "bench/ops_gpu.h"
#include "core/kernels.h"

namespace cbq::bench {
namespace {

constexpr std::int64_t kR = kTokens65B, kC = kHidden65B, kF = kFfn65B;
constexpr double kEps = 1e-5;
constexpr int kBits = 4;

void add_norms(GpuRows& rows) {
  rows.add("gpu/rms_norm/forward", 0, [](Operands& o) -> Call {
    const Tensor y = o.output({kR, kC}), rstd = o.output({kR}, DType::f32), x = o.input({kR, kC}), w = o.input({kC});
    return [=, &ctx = o.ctx] { ctx.kernels->rms_norm_forward(ctx, y, rstd, x, w, kEps); };
  });
  rows.add("gpu/rms_norm/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dy = o.input({kR, kC}), x = o.input({kR, kC}), w = o.input({kC});
    const Tensor rstd = o.constant({kR}, 1);
    return [=, &ctx = o.ctx] { ctx.kernels->rms_norm_backward(ctx, dx, {}, dy, x, w, rstd, {}); };
  });
  rows.add("gpu/rms_norm/backward with dw", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dw = o.output({kC}), dy = o.input({kR, kC}), x = o.input({kR, kC});
    const Tensor w = o.input({kC}), rstd = o.constant({kR}, 1);
    return [=, &ctx = o.ctx] { ctx.kernels->rms_norm_backward(ctx, dx, dw, dy, x, w, rstd, {}); };
  });
  rows.add("gpu/layer_norm/forward", 0, [](Operands& o) -> Call {
    const Tensor y = o.output({kR, kC}), mean = o.output({kR}, DType::f32), rstd = o.output({kR}, DType::f32);
    const Tensor x = o.input({kR, kC}), w = o.input({kC}), b = o.input({kC});
    return [=, &ctx = o.ctx] { ctx.kernels->layer_norm_forward(ctx, y, mean, rstd, x, w, b, kEps); };
  });
  rows.add("gpu/layer_norm/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dy = o.input({kR, kC}), x = o.input({kR, kC}), w = o.input({kC});
    const Tensor mean = o.constant({kR}, 0), rstd = o.constant({kR}, 1);
    return [=, &ctx = o.ctx] { ctx.kernels->layer_norm_backward(ctx, dx, {}, {}, dy, x, w, mean, rstd, {}); };
  });
  rows.add("gpu/layer_norm/backward with dw, db", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dw = o.output({kC}), db = o.output({kC}), dy = o.input({kR, kC});
    const Tensor x = o.input({kR, kC}), w = o.input({kC}), mean = o.constant({kR}, 0), rstd = o.constant({kR}, 1);
    return [=, &ctx = o.ctx] { ctx.kernels->layer_norm_backward(ctx, dx, dw, db, dy, x, w, mean, rstd, {}); };
  });
}

void add_layers(GpuRows& rows) {
  const auto add_rope = [&](const char* name, Rotation rotation) {
    rows.add(name, 0, [rotation](Operands& o) -> Call {
      const Shape heads{1, kR, kHeads65B, kHeadDim65B}, angles{kR, kHeadDim65B / 2};
      const Tensor y = o.output(heads), x = o.input(heads);
      const Tensor cos = o.input(angles, DType::f32), sin = o.input(angles, DType::f32);
      return [=, &ctx = o.ctx] { ctx.kernels->rope(ctx, y, x, cos, sin, rotation); };
    });
  };
  add_rope("gpu/rope/forward", Rotation::forward);
  add_rope("gpu/rope/backward", Rotation::inverse);
  rows.add("gpu/silu_gate/forward", 0, [](Operands& o) -> Call {
    const Tensor y = o.output({kR, kF}), gate = o.input({kR, kF}), up = o.input({kR, kF});
    return [=, &ctx = o.ctx] { ctx.kernels->gated_forward(ctx, y, gate, up); };
  });
  rows.add("gpu/silu_gate/backward", 0, [](Operands& o) -> Call {
    const Tensor dgate = o.output({kR, kF}), dup = o.output({kR, kF}), dy = o.input({kR, kF});
    const Tensor gate = o.input({kR, kF}), up = o.input({kR, kF});
    return [=, &ctx = o.ctx] { ctx.kernels->gated_backward(ctx, dgate, dup, dy, gate, up); };
  });
  // Its backward hands the gradient on; the tape's own sums of gradients are this kernel too.
  rows.add("gpu/residual_add", 0, [](Operands& o) -> Call {
    const Tensor y = o.output({kR, kC}), a = o.input({kR, kC}), b = o.input({kR, kC});
    return [=, &ctx = o.ctx] { ctx.kernels->add(ctx, y, a, b); };
  });
}

void add_losses(GpuRows& rows) {
  rows.add("gpu/softmax/forward", 0, [](Operands& o) -> Call {
    const Tensor y = o.output({kR, kC}), x = o.input({kR, kC});
    return [=, &ctx = o.ctx] { ctx.kernels->softmax_forward(ctx, y, x); };
  });
  rows.add("gpu/softmax/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dy = o.input({kR, kC}), y = o.input({kR, kC}, DType::bf16, 1e-4);
    return [=, &ctx = o.ctx] { ctx.kernels->softmax_backward(ctx, dx, dy, y); };
  });
  rows.add("gpu/kl/forward", 0, [](Operands& o) -> Call {
    const Tensor loss = o.output({kR}, DType::f32), a = o.input({kR, kC}), b = o.input({kR, kC});
    return [=, &ctx = o.ctx] { ctx.kernels->kl_forward(ctx, loss, a, b); };
  });
  // As in training, where a belongs to the full-precision model and has no gradient.
  rows.add("gpu/kl/backward", 0, [](Operands& o) -> Call {
    const Tensor db = o.output({kR, kC}), dloss = o.constant({kR}, 1), a = o.input({kR, kC}), b = o.input({kR, kC});
    return [=, &ctx = o.ctx] { ctx.kernels->kl_backward(ctx, {}, db, dloss, a, b); };
  });
  rows.add("gpu/mse/forward", 0, [](Operands& o) -> Call {
    const Tensor loss = o.output({1}, DType::f32), a = o.input({kR, kC}), b = o.input({kR, kC});
    return [=, &ctx = o.ctx] { ctx.kernels->mse_forward(ctx, loss, a, b); };
  });
  rows.add("gpu/mse/backward", 0, [](Operands& o) -> Call {
    const Tensor db = o.output({kR, kC}), dloss = o.constant({1}, 1), a = o.input({kR, kC}), b = o.input({kR, kC});
    return [=, &ctx = o.ctx] { ctx.kernels->mse_backward(ctx, {}, db, dloss, a, b); };
  });
}

constexpr std::pair<const char*, ops::Form> kForms[] = {{"forward", ops::Form::values},
                                                        {"forward with integers", ops::Form::with_integers}};

IntegerTensors integers_of(Operands& o, const Shape& shape, ops::Form form) {
  if (form == ops::Form::values) return {};
  return {o.output(shape, DType::f8), o.output({shape[0]}, DType::f32)};
}

void add_quantiser(GpuRows& rows) {
  for (const auto& [name, form] : kForms)
    rows.add(concat("gpu/fake_quant/", name), 0, [form = form](Operands& o) -> Call {
      const Tensor y = o.output({kR, kC}), x = o.input({kR, kC}), factor = o.constant({1}, 0.9);
      const IntegerTensors integers = integers_of(o, {kR, kC}, form);
      return [=, &ctx = o.ctx] {
        ctx.kernels->fake_quant_forward(ctx, y, integers.views(), x, {factor, kBits, Symmetry::symmetric});
      };
    });
  rows.add("gpu/fake_quant/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dfactor = o.output({1}, DType::f32), dy = o.input({kR, kC});
    const Tensor x = o.input({kR, kC}), factor = o.constant({1}, 0.9);
    return [=, &ctx = o.ctx] {
      ctx.kernels->fake_quant_backward(ctx, dx, dfactor, dy, x, {factor, kBits, Symmetry::symmetric});
    };
  });
}

// Both ops of a pair in one pass.
void add_fused(GpuRows& rows) {
  for (const auto& [name, form] : kForms)
    rows.add(concat("gpu/rms_norm_quant/", name), 0, [form = form](Operands& o) -> Call {
      const Tensor y = o.output({kR, kC}), rstd = o.output({kR}, DType::f32), range = o.output({kR, 2}, DType::f32);
      const Tensor x = o.input({kR, kC}), w = o.input({kC}), factor = o.constant({1}, 0.9);
      const IntegerTensors integers = integers_of(o, {kR, kC}, form);
      return [=, &ctx = o.ctx] {
        ctx.kernels->rms_norm_quant_forward(ctx, y, integers.views(), rstd, range, x, w, kEps,
                                            {factor, kBits, Symmetry::symmetric});
      };
    });
  // With the gradient of the residual, as in training.
  rows.add("gpu/rms_norm_quant/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dfactor = o.output({1}, DType::f32), dy = o.input({kR, kC});
    const Tensor x = o.input({kR, kC}), w = o.input({kC}), addend = o.input({kR, kC}), factor = o.constant({1}, 0.9);
    const Tensor rstd = o.constant({kR}, 1), range = o.input({kR, 2}, DType::f32, 4);
    return [=, &ctx = o.ctx] {
      ctx.kernels->rms_norm_quant_backward(ctx, dx, dfactor, dy, x, w, rstd, range,
                                           {factor, kBits, Symmetry::symmetric}, addend);
    };
  });
  for (const auto& [name, form] : kForms)
    rows.add(concat("gpu/layer_norm_quant/", name), 0, [form = form](Operands& o) -> Call {
      const Tensor y = o.output({kR, kC}), mean = o.output({kR}, DType::f32), rstd = o.output({kR}, DType::f32);
      const Tensor range = o.output({kR, 2}, DType::f32), x = o.input({kR, kC}), w = o.input({kC}), b = o.input({kC});
      const Tensor factor = o.constant({1}, 0.9);
      const IntegerTensors integers = integers_of(o, {kR, kC}, form);
      return [=, &ctx = o.ctx] {
        ctx.kernels->layer_norm_quant_forward(ctx, y, integers.views(), mean, rstd, range, x, w, b, kEps,
                                              {factor, kBits, Symmetry::symmetric});
      };
    });
  rows.add("gpu/layer_norm_quant/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kC}), dfactor = o.output({1}, DType::f32), dy = o.input({kR, kC});
    const Tensor x = o.input({kR, kC}), w = o.input({kC}), b = o.input({kC}), addend = o.input({kR, kC});
    const Tensor mean = o.constant({kR}, 0), rstd = o.constant({kR}, 1), range = o.input({kR, 2}, DType::f32, 4);
    const Tensor factor = o.constant({1}, 0.9);
    return [=, &ctx = o.ctx] {
      ctx.kernels->layer_norm_quant_backward(ctx, dx, dfactor, dy, x, w, b, mean, rstd, range,
                                             {factor, kBits, Symmetry::symmetric}, addend);
    };
  });
  for (const auto& [name, form] : kForms)
    rows.add(concat("gpu/relu_quant/", name), 0, [form = form](Operands& o) -> Call {
      const Tensor y = o.output({kR, kF}), range = o.output({kR, 2}, DType::f32);
      const Tensor x = o.input({kR, kF}), factor = o.constant({1}, 0.9);
      const IntegerTensors integers = integers_of(o, {kR, kF}, form);
      return [=, &ctx = o.ctx] {
        ctx.kernels->activation_quant_forward(ctx, y, integers.views(), range, x, Activation::relu,
                                              {factor, kBits, Symmetry::symmetric});
      };
    });
  rows.add("gpu/relu_quant/backward", 0, [](Operands& o) -> Call {
    const Tensor dx = o.output({kR, kF}), dfactor = o.output({1}, DType::f32), dy = o.input({kR, kF});
    const Tensor x = o.input({kR, kF}), range = o.input({kR, 2}, DType::f32, 4), factor = o.constant({1}, 0.9);
    return [=, &ctx = o.ctx] {
      ctx.kernels->activation_quant_backward(ctx, dx, dfactor, dy, x, range, Activation::relu,
                                             {factor, kBits, Symmetry::symmetric});
    };
  });
  for (const auto& [name, form] : kForms)
    rows.add(concat("gpu/gated_quant/", name), 0, [form = form](Operands& o) -> Call {
      const Tensor y = o.output({kR, kF}), range = o.output({kR, 2}, DType::f32);
      const Tensor gate = o.input({kR, kF}), up = o.input({kR, kF}), factor = o.constant({1}, 0.9);
      const IntegerTensors integers = integers_of(o, {kR, kF}, form);
      return [=, &ctx = o.ctx] {
        ctx.kernels->gated_quant_forward(ctx, y, integers.views(), range, gate, up,
                                         {factor, kBits, Symmetry::symmetric});
      };
    });
  rows.add("gpu/gated_quant/backward", 0, [](Operands& o) -> Call {
    const Tensor dgate = o.output({kR, kF}), dup = o.output({kR, kF}), dfactor = o.output({1}, DType::f32);
    const Tensor dy = o.input({kR, kF}), gate = o.input({kR, kF}), up = o.input({kR, kF});
    const Tensor range = o.input({kR, 2}, DType::f32, 4), factor = o.constant({1}, 0.9);
    return [=, &ctx = o.ctx] {
      ctx.kernels->gated_quant_backward(ctx, dgate, dup, dfactor, dy, gate, up, range,
                                        {factor, kBits, Symmetry::symmetric});
    };
  });
}

// A step of AdamW over parameters of these shapes, as training makes it: 28 bytes an element.
Call adamw(Operands& o, const std::vector<Shape>& shapes) {
  const auto parameters = std::make_shared<std::vector<Parameter>>();
  std::vector<Tensor> gradients;
  for (const Shape& shape : shapes) {
    parameters->emplace_back("", o.updated(shape, DType::f32, 1));
    gradients.push_back(o.input(shape, DType::f32));
    o.moves(4 * gradients.back().bytes());  // both moments, which the optimiser owns, read and written
  }
  ParameterGroup group{.parameters = {}, .lr = 1e-4, .schedule = Schedule::constant};
  for (Parameter& parameter : *parameters) group.parameters.push_back(&parameter);
  const auto optimizer = std::make_shared<Optimizer>(o.ctx, std::vector{group}, 1 << 30);
  return [=] {
    for (std::size_t i = 0; i < gradients.size(); ++i) (*parameters)[i].slot->grad = gradients[i];
    optimizer->step();
  };
}

void add_optimiser(GpuRows& rows) {
  rows.add("gpu/adamw/64 M elements", 0, [](Operands& o) { return adamw(o, {{1 << 26}}); });
  // Steps, a1 and a2 of all linear layers: 42 tensors, 1.7 M elements.
  rows.add("gpu/adamw/rank 5 in two blocks", 0, [](Operands& o) {
    std::vector<Shape> shapes;
    for (int block = 0; block < 2; ++block)
      for (const Shape& weight : weights_65b())
        shapes.insert(shapes.end(), {Shape{weight[0], 1}, Shape{weight[0], 5}, Shape{5, weight[1]}});
    return adamw(o, shapes);
  });
}

}  // namespace

void add_memory_rows(GpuRows& rows) {
  add_norms(rows);
  add_layers(rows);
  add_losses(rows);
  add_quantiser(rows);
  add_fused(rows);
  add_optimiser(rows);
}

}  // namespace cbq::bench
