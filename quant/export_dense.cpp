// Dense checkpoints: every weight de-quantised, in the dtype of the source. Any reader of the source reads them; what
// they do not carry in their tensors, quantised activations and caches, stands in config.json under "cbq".
#include "quant/export_format.h"
#include "quant/hard_block.h"

namespace cbq {
namespace {

class Dense final : public LayerFormat {
 public:
  std::vector<TensorSpec> tensors(const std::string& name, const Shape& shape, const LinearSpec&,
                                  DType stored) const override {
    return {{name + ".weight", stored, shape}};
  }

  void write(Context& ctx, ShardWriter& shards, const std::string& name, const HardWeight& hard, const LinearSpec&,
             DType stored) const override {
    const auto bytes = exact_bytes(ctx, dequantise(ctx, hard, stored, hard.scale.dtype()), stored);
    require(bytes.has_value(), "export: ", name, ".weight is not exact in ", stored);
    shards.write(name + ".weight", *bytes);
  }

  void describe(nlohmann::ordered_json& config, const ExportedModel& model) const override {
    const auto extra = extra_quantisers(model, ListedActivations::all);
    if (!extra.empty()) config["cbq"] = extra;
  }
};

}  // namespace

std::unique_ptr<LayerFormat> dense_format() {
  return std::make_unique<Dense>();
}

}  // namespace cbq
