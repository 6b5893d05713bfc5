#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/progress.h"
#include "cpu/open.h"
#include "tools/commands.h"
#include "tools/output.h"

namespace cbq {

namespace {

using nlohmann::ordered_json;

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

enum class Part { embeddings, linears, norms, head, other };
constexpr std::array<const char*, 5> kPartNames = {"embeddings", "linears", "norms", "head", "other"};

struct PartSize {
  std::int64_t parameters = 0, bytes = 0;
};

// How far the weights of a layer reach beyond their bulk.
struct Outliers {
  double max = 0;                // of |w|
  double max_over_mean = kNone;  // of |w|; both this and the next are undefined for a layer of zeros
  double kurtosis = kNone;       // fourth moment over the squared second, about zero: 3 for a Gaussian
  double share = 0;              // of |w| above Q3 + 1.5 (Q3 - Q1), the quartiles being those of |w| (Tukey's fences)
};

struct Layer {
  std::string name;
  Shape shape;
  StoredScheme scheme;
  Outliers outliers;
};

struct Report {
  ModelConfig config;
  bool is_quantised;
  int kv_bits;
  std::array<PartSize, kPartNames.size()> parts;
  PartSize total;
  std::vector<Layer> layers;
};

Outliers outliers_of(std::vector<float> weights) {
  double sum = 0, second = 0, fourth = 0;
  for (float& w : weights) {
    w = std::abs(w);
    const double square = double(w) * w;
    sum += w, second += square, fourth += square * square;
  }
  const double count = double(weights.size());
  const auto quartile = [&](std::size_t quarters) {
    const auto at = weights.begin() + std::ptrdiff_t((weights.size() - 1) * quarters / 4);
    std::nth_element(weights.begin(), at, weights.end());
    return double(*at);
  };
  const double q1 = quartile(1), q3 = quartile(3), fence = q3 + 1.5 * (q3 - q1);
  Outliers result;
  result.max = *std::max_element(weights.begin(), weights.end());
  if (sum > 0) result.max_over_mean = result.max / (sum / count);
  if (second > 0) result.kurtosis = fourth * count / (second * second);
  result.share = double(std::count_if(weights.begin(), weights.end(), [&](float w) { return w > fence; })) / count;
  return result;
}

Part part_of(const std::string& name, const std::set<std::string>& linears) {
  if (linears.contains(name.substr(0, name.rfind('.')))) return Part::linears;
  if (name.find("embed_") != std::string::npos) return Part::embeddings;
  if (name.starts_with("lm_head.")) return Part::head;
  return name.find("norm") != std::string::npos ? Part::norms : Part::other;
}

std::vector<Layer> layers_of(const ModelConfig& config, const Checkpoint& checkpoint, Context& ctx) {
  std::vector<Layer> layers;
  Progress progress(stderr, "layers", config.layers * std::int64_t(linear_roles(config.family).size()));
  for (std::int64_t i = 0; i < config.layers; ++i)
    for (LinearRole role : linear_roles(config.family)) {
      const std::string name = linear_name(config, i, role);
      const Shape shape = weight_shape(config, role);
      const Tensor weight = checkpoint.load_weight(ctx, name, shape, DType::f32);
      layers.push_back({name, shape, checkpoint.scheme(name), outliers_of(to_host<float>(ctx, weight))});
      progress.update(std::int64_t(layers.size()), name);
    }
  progress.finish("");
  return layers;
}

Report inspect(const InspectOptions& options) {
  const std::unique_ptr<Context> ctx = cpu::open(options.threads);
  const Checkpoint checkpoint(options.model);
  Report report{read_model_config(options.model), checkpoint.is_quantised(), checkpoint.kv_bits(), {}, {}, {}};
  report.layers = layers_of(report.config, checkpoint, *ctx);
  std::set<std::string> linears;
  PartSize& of_linears = report.parts[std::size_t(Part::linears)];
  for (const Layer& layer : report.layers) {
    linears.insert(layer.name);
    of_linears.parameters += layer.shape.count();
  }
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.info(name);
    const Part part = part_of(name, linears);
    PartSize& size = report.parts[std::size_t(part)];
    size.bytes += info.bytes;
    // A packed weight is stored as several tensors; its parameters were counted by its shape.
    if (part != Part::linears || name.ends_with(".bias")) size.parameters += info.shape.count();
  }
  for (const PartSize& size : report.parts)
    report.total.parameters += size.parameters, report.total.bytes += size.bytes;
  return report;
}

const char* symmetry_name(const Layer& layer) {
  return layer.scheme.symmetry == Symmetry::symmetric ? "sym" : "asym";
}

ordered_json report_json(const InspectOptions& options, const Report& report) {
  const ModelConfig& c = report.config;
  ordered_json json{{"model", options.model.string()},
                    {"architecture", c.architecture},
                    {"dtype", name(c.dtype)},
                    {"blocks", c.layers},
                    {"hidden", c.hidden},
                    {"ffn", c.ffn},
                    {"heads", c.heads},
                    {"kv_heads", c.kv_heads},
                    {"head_dim", c.head_dim},
                    {"vocab", c.vocab},
                    {"max_positions", c.max_positions},
                    {"tied_head", c.tied_head}};
  json["quantised"] = report.is_quantised;
  json["kv_bits"] = report.kv_bits;
  json["parameters"] = {{"total", report.total.parameters}};
  json["bytes"] = {{"total", report.total.bytes}};
  for (std::size_t p = 0; p < kPartNames.size(); ++p) {
    json["parameters"][kPartNames[p]] = report.parts[p].parameters;
    json["bytes"][kPartNames[p]] = report.parts[p].bytes;
  }
  ordered_json& layers = json["layers"] = ordered_json::array();
  for (const Layer& layer : report.layers)
    layers.push_back({{"name", layer.name},
                      {"shape", {layer.shape[0], layer.shape[1]}},
                      {"wbits", layer.scheme.wbits},
                      {"abits", layer.scheme.abits},
                      {"group_size", layer.scheme.group_size},
                      {"sym", layer.scheme.symmetry == Symmetry::symmetric},
                      {"max", layer.outliers.max},
                      {"max_over_mean", layer.outliers.max_over_mean},
                      {"kurtosis", layer.outliers.kurtosis},
                      {"outlier_share", layer.outliers.share}});
  return json;
}

std::string report_text(const InspectOptions& options, const Report& report) {
  const ModelConfig& c = report.config;
  std::string text = concat(options.model.string(), ": ", c.architecture, ", ", c.layers, " blocks, ", c.dtype,
                            report.is_quantised ? ", quantised" : "", "\nhidden ", c.hidden, ", ffn ", c.ffn, ", ",
                            c.heads, " heads of ", c.head_dim, " (", c.kv_heads, " for keys and values), vocabulary ",
                            c.vocab, c.tied_head ? " (head tied)" : "", ", ", c.max_positions, " positions\n\n");
  std::vector<std::vector<std::string>> rows = {{"part", "parameters", "size"}};
  for (std::size_t p = 0; p < kPartNames.size(); ++p)
    if (report.parts[p].bytes > 0)
      rows.push_back({kPartNames[p], format_count(report.parts[p].parameters), format_bytes(report.parts[p].bytes)});
  rows.push_back({"total", format_count(report.total.parameters), format_bytes(report.total.bytes)});
  text += aligned(rows) + "\n";

  rows = {{"layer", "out", "in", "weights", "inputs", "max |w|", "max/mean", "kurtosis", "outliers"}};
  for (const Layer& layer : report.layers) {
    const StoredScheme& s = layer.scheme;
    const std::string group = s.group_size < 0 ? "" : concat(" g", s.group_size);
    rows.push_back({layer.name, std::to_string(layer.shape[0]), std::to_string(layer.shape[1]),
                    s.wbits == 16 ? std::string(name(c.dtype)) : concat(s.wbits, " ", symmetry_name(layer), group),
                    s.abits == 16 ? "-" : std::to_string(s.abits), fixed(layer.outliers.max, 4),
                    fixed(layer.outliers.max_over_mean, 1), fixed(layer.outliers.kurtosis, 2),
                    fixed(100 * layer.outliers.share, 3) + " %"});
  }
  return text + aligned(rows) + "\nkurtosis: 3 for a Gaussian; outliers: |w| above Q3 + 1.5 (Q3 - Q1) of |w|\n";
}

}  // namespace

void inspect_command(const InspectOptions& options) {
  const Report report = inspect(options);
  if (options.format == ResultFormat::json)
    print_json(report_json(options, report));
  else
    print(report_text(options, report));
}

}  // namespace cbq
