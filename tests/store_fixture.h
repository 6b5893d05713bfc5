// A run store in a temporary folder, with blocks and states to save.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <memory>
#include <string>

#include "cpu/open.h"
#include "quant/store.h"
#include "tests/error_text.h"
#include "tests/tiny_model.h"

namespace cbq {

inline const Fingerprint kRun{{{"wbits", 4}, {"lr", 0.1}}, "m1", "d1", "compressed-tensors"};

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// A spec that differs from layer to layer: every width, both symmetries, one layer of 16 bits.
inline BlockSpec mixed_spec(const ModelConfig& config) {
  constexpr std::array kBits = {2, 3, 4, 5, 6, 8, 16};
  BlockSpec spec = uniform_spec(config, {{4, -1, Symmetry::symmetric}, {8, Symmetry::asymmetric}});
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    spec[i].weight = {kBits[i], i % 2 ? 4 : -1, i % 3 ? Symmetry::asymmetric : Symmetry::symmetric};
  }
  return spec;
}

class Store : public ::testing::Test {
 protected:
  std::unique_ptr<Context> ctx_ = cpu::open(1);
  TempFolder temp_;
  std::filesystem::path output_ = temp_ / "out";

  std::map<std::string, Tensor> state(float value) {
    const std::vector<float> values(1000, value);
    return {{"3.q.a1", from_host<float>(*ctx_, {10, 100}, DType::f32, values)},
            {"3.rng", from_host<std::int32_t>(*ctx_, {2}, DType::i32, std::vector<std::int32_t>{1, -7})}};
  }
  std::string open_error(const Fingerprint& fingerprint) {
    return error_text([&] { RunStore(output_, fingerprint); });
  }
};

}  // namespace cbq
