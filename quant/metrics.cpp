#include "quant/metrics.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/files.h"
#include "quant/layer_statistics.h"

namespace cbq {
namespace {

using nlohmann::json;

constexpr std::array<const char*, kSites> kSiteNames = {"attention_in", "attention_out", "mlp_in", "mlp_out"};

// Four digits: lists of magnitudes are drawn, not computed with.
double rounded(double x) {
  if (!(x > 0) || !std::isfinite(x)) return 0;
  const double unit = std::pow(10, 3 - std::floor(std::log10(x)));
  return std::round(x * unit) / unit;
}

json largest_by_bin(const std::vector<float>& channels) {
  const std::int64_t count = std::ssize(channels), bins = std::min(count, kChannelBins);
  json list = json::array();
  for (std::int64_t b = 0; b < bins; ++b)
    list.push_back(
        rounded(*std::max_element(channels.begin() + count * b / bins, channels.begin() + count * (b + 1) / bins)));
  return list;
}

json site_metrics(int site, const ActivationRange& range, const std::vector<float>& scale) {
  std::vector<float> before, after;
  for (std::size_t i = 0; i < range.low.size(); ++i) {
    before.push_back(std::max(std::abs(range.low[i]), std::abs(range.high[i])));
    after.push_back(scale.empty() ? before[i] : before[i] / scale[i]);
  }
  return {{"name", kSiteNames[std::size_t(site)]},
          {"channels", before.size()},
          {"scaled", std::ranges::count_if(scale, [](float s) { return s != 1; })},
          {"largest_before", *std::ranges::max_element(before)},
          {"largest_after", *std::ranges::max_element(after)},
          {"before", largest_by_bin(before)},
          {"after", largest_by_bin(after)}};
}

}  // namespace

json entered_metrics(const ModelConfig& config, std::int64_t layer, const CfpPlan& plan, const BlockRanges& ranges) {
  json linears = json::array(), sites = json::array();
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    linears.push_back({{"name", short_name(config, role)},
                       {"weights", weight_shape(config, role).count()},
                       {"outliers", plan.outliers[i]},
                       {"largest", plan.largest[i]},
                       {"kept", std::min(plan.largest[i], plan.truncation[i])}});
  }
  for (int site = 0; site < kSites; ++site)
    if (const ActivationRange& range = ranges[std::size_t(site)]; !range.low.empty())
      sites.push_back(site_metrics(site, range, plan.site_scale[std::size_t(site)]));
  return {{"layer", layer}, {"linears", linears}, {"sites", sites}};
}

json finished_metrics(Context& ctx, const ModelConfig& config, std::int64_t layer, const BlockWeights& weights,
                      const QuantBlock& student, const HardBlock& hard) {
  json linears = json::array(), factors = json::object();
  double moved = 0, count = 0;
  for (const LinearRole role : linear_roles(config.family)) {
    const auto i = std::size_t(role);
    const int site = int(site_of(role));
    if (hard.spec[i].activation.bits < 16)
      factors[kSiteNames[std::size_t(site)]] = hard.activation_factor[std::size_t(site)];
    if (!hard.hard[i]) continue;
    const Tensor& w = weights[role].weight.value;
    const LayerStatistics s =
        layer_statistics(ctx, w, *hard.hard[i], config.dtype, student.rounding(role)->hard_rounder());
    moved += s.moved_share * double(w.count());
    count += double(w.count());
    linears.push_back({{"name", short_name(config, role)},
                       {"bits", hard.spec[i].weight.bits},
                       {"weights", w.count()},
                       {"error", s.error},
                       {"nearest_error", s.nearest_error},
                       {"moved_share", s.moved_share},
                       {"clip_lowest", s.clip_lowest},
                       {"clip_median", s.clip_median},
                       {"clip_highest", s.clip_highest}});
  }
  json result = {{"layer", layer}, {"moved_share", count > 0 ? moved / count : 0}, {"linears", linears}};
  if (!factors.empty()) result["activation_factors"] = factors;
  return result;
}

json window_metrics(std::size_t index, const Window& window, const WindowResult& result) {
  const auto distance = [&](double x) { return result.steps > 0 ? json(x) : json(); };
  return {{"window", index},
          {"begin", window.begin},
          {"end", window.end},
          {"steps", result.steps},
          {"start_distance", distance(result.start_distance)},
          {"end_distance", distance(result.end_distance)},
          {"losses", result.losses}};
}

void keep_metrics_of(const std::filesystem::path& file, std::int64_t windows_done) {
  std::string kept;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    const auto entry = json::parse(line, nullptr, false);
    if (entry.is_object() && entry.value("window", std::int64_t{-1}) < windows_done && entry.contains("window"))
      kept += line + "\n";
  }
  write_file(file, kept);
}

std::int64_t process_peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t(usage.ru_maxrss) * 1024;
}

}  // namespace cbq
