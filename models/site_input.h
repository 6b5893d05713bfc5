// What linear layers read: a value, or how it is made of others, so that making it and quantising it can be one pass.
#pragma once

#include <variant>

#include "models/norm.h"

namespace cbq {

class SiteInput {
 public:
  SiteInput(Var x) : from_(std::move(x)) {}  // implicit: a value as it stands
  // normalise(norm, x, eps); the norm must outlive this.
  static SiteInput normalised(const Norm& norm, Var x, double eps) {
    return SiteInput(Normalised{&norm, std::move(x), eps});
  }
  // activation(x, kind)
  static SiteInput activated(Var x, Activation kind) { return SiteInput(Activated{std::move(x), kind}); }
  // silu(gate) * up
  static SiteInput gated(Var gate, Var up) { return SiteInput(Gated{std::move(gate), std::move(up)}); }

  std::int64_t rows() const;
  Var value(Context& ctx) const;
  // fake_quant of the value. In one pass where it is a norm of constant weights in the type of x, activated or gated.
  Var quantised(Context& ctx, const ops::ActivationQuantiserVars& quantiser) const;

 private:
  struct Normalised {
    const Norm* norm;
    Var x;
    double eps;
  };
  struct Activated {
    Var x;
    Activation kind;
  };
  struct Gated {
    Var gate, up;
  };
  explicit SiteInput(Normalised from) : from_(std::move(from)) {}
  explicit SiteInput(Activated from) : from_(std::move(from)) {}
  explicit SiteInput(Gated from) : from_(std::move(from)) {}

  std::variant<Var, Normalised, Activated, Gated> from_;
};

}  // namespace cbq
